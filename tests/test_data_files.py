"""Is what is wrong with a data set's files told by file, line and value, before RecBole dies of it?"""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from recbole_rawp.cli.main import main
from recbole_rawp.errors import InputError
from recbole_rawp.host.config import RAWPConfig
from recbole_rawp.host.preparation import load_dataset
from tests import toy_data

INTER, USER = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n", "user_id:token\tage:float\n"
ROWS = [("a", "x", 5, 1), ("a", "y", 3, 2), ("a", "z", 4, 3), ("b", "x", 1, 4), ("b", "z", 2, 5)]
BODY = "".join("\t".join(map(str, row)) + "\n" for row in ROWS)


def load(inter=INTER + BODY, user=None, model="NeuMF", files=None, **settings):
    """Load a data set of these files: text, or bytes as they are."""
    home = Path("data/mine")
    home.mkdir(parents=True, exist_ok=True)
    for end, text in {"inter": inter, "user": user, **(files or {})}.items():
        if text is not None:
            (home / f"mine.{end}").write_bytes(text if isinstance(text, bytes) else text.encode())
    fixed = {"model": model, "dataset": "mine", "data_path": "data", "load_col": None, "state": "warning"}
    return load_dataset(RAWPConfig(config_dict=fixed | settings))


def test_a_sound_data_set_is_loaded_whatever_its_form():
    assert load().inter_num == 5
    assert load(INTER.replace("\t", ",") + BODY.replace("\t", ","), field_separator=",").inter_num == 5
    assert load((INTER + BODY).encode("utf-16"), encoding="utf-16").inter_num == 5
    assert load((INTER + BODY).encode("utf-8-sig"), encoding="utf-8-sig").inter_num == 5
    assert load((INTER + BODY).replace("\n", "\r\n")).inter_num == 5
    for first in ("a\t", "a"):  # a value that is missing, with its separator or without
        assert load(user=f"{USER}{first}\nb\t7\n").user_num == 3
    assert load(alias_of_entity_id=["entity"], alias_of_relation_id=["relation"]).inter_num == 5  # of no graph


SASREC = {"model": "SASRec", "train_neg_sample_args": None}
FILES = [
    ({"inter": ""}, "mine.inter': is empty. It begins with a header: user_id:token"),
    ({"inter": "\n" + INTER + BODY}, "line 1 is empty"),
    ({"inter": INTER}, "mine.inter': has a header and no rows"),
    ({"inter": BODY}, "line 1: 'a' is not NAME:TYPE. The first line names each column and its type, as a:token"),
    ({"inter": INTER.replace(":float", "") + BODY}, "line 1: 'rating' is not NAME:TYPE. The first line names each"),
    ({"inter": INTER.replace("user_id:", "user:id:") + BODY}, "line 1: 'user:id:token' is not NAME:TYPE"),
    ({"inter": INTER.replace("token", "tokn", 1) + BODY}, "there is no type 'tokn'. Did you mean 'token'?"),
    ({"inter": INTER.replace("rating:float", "rating:int") + BODY}, "'rating:int': there is no type 'int'"),
    ({"inter": INTER.replace("rating", "user_id") + BODY}, "line 1: there are two columns 'user_id'"),
    ({"inter": INTER.replace("\t", ",") + BODY}, "line 1 is parted by ',', not by field_separator '\\t'"),
    ({"inter": INTER.replace("\t", " ") + BODY}, "parted by ' ', not by field_separator '\\t': 'user_id:token item_id"),
    ({"inter": INTER + BODY, "field_separator": ","}, "parted by '\\t', not by field_separator ','"),
    ({"inter": INTER + BODY, "field_separator": ""}, "field_separator: '' is not valid; expected what parts"),
    ({"inter": INTER + BODY.replace("\n", "\t\n")}, "the first row has 5 cells and the header 4: 'a\tx\t5\t1'"),
    ({"inter": INTER + BODY.replace("\t", ",")}, "the first row has 1 cells and the header 4: 'a,x,5,1'"),
    ({"inter": (INTER + BODY).encode("utf-8-sig")}, "byte-order mark (ef bb bf). Save the file without it"),
    ({"inter": (INTER + BODY).encode("utf-16")}, "byte-order mark (ff fe). Save the file without it, as UTF-8, or say"),
    ({"inter": (INTER + BODY).replace("z", "é").encode("latin-1")}, "line 4 is not utf-8: b'a\\t\\xe9\\t4\\t3'"),
    ({"inter": INTER + BODY, "encoding": "utf9"}, "encoding: 'utf9' is not known"),
    ({"inter": INTER + BODY.replace("5\t1", "five\t1")}, "line 2: 'five' in column 'rating:float' is no number"),
    ({"inter": INTER + BODY + 'b\t"y\t3\t6\nc\ty\t2\t7\n'}, "a quotation mark opens before line 8 and takes whole"),
    ({"inter": INTER.replace("timestamp:float", "w:float_seq") + BODY + "c\tx\t1\t1 x\n"}, "line 7: 'x' in column 'w"),
    ({"user": "user:token\n" + "a\nb\n"}, "USER_ID_FIELD: no column 'user_id' is loaded from 'data/mine/mine.user'"),
    ({"user": "user_id:float\n" + "1\n2\n"}, "line 1: 'user_id:float', but USER_ID_FIELD wants token"),
    ({"inter": INTER.replace("item_id", "item") + BODY}, "ITEM_ID_FIELD: no column 'item_id' is loaded from"),
    ({"inter": INTER.replace("timestamp", "time") + BODY, **SASREC}, "TIME_FIELD: no column 'timestamp'"),
    ({"inter": INTER.replace("timestamp:float", "timestamp:token") + BODY, "eval_args": {"order": "TO"}}, "TO wants"),
    ({"model": "CFKG"}, "dataset: there is no file 'data/mine/mine.kg'; the folder holds mine.inter. A file is"),
    ({"benchmark_filename": ["a", "b", "c"]}, "dataset: there is no file 'data/mine/mine.a.inter'"),
    ({"load_col": {"user": ["user_id"]}}, "load_col: names no column of the .inter file"),
    ({"load_col": {"inter": ["user_id", "itemid"]}}, "ITEM_ID_FIELD: no column 'item_id' is loaded from"),
    ({"load_col": {"inter": "*"}, "unload_col": {"inter": ["item_id"]}}, "ITEM_ID_FIELD: no column 'item_id'"),
    ({"load_col": {"inter": ["user_id"]}, "unload_col": {"inter": ["a"]}}, "unload_col: goes with load_col null"),
    ({"threshold": {"ratng": 3}}, "threshold: no column 'ratng' is loaded from 'data/mine"),
    ({"val_interval": {"ratng": "[3,inf)"}}, "val_interval: no file's column 'ratng' is loaded. Did you mean 'rating'"),
    ({"alias_of_item_id": ["ids"]}, "alias_of_item_id: no file's column 'ids' is loaded"),
    ({"val_interval": {"rating": "[30,inf)"}}, "the filters leave nothing of 'mine' (val_interval: {'rating'"),
    ({"user_inter_num_interval": "[9,inf)"}, "the filters leave nothing of 'mine' (user_inter_num_interval: [9,inf))"),
]  # fmt: skip


@pytest.mark.parametrize(("case", "message"), FILES, ids=[message[:40] for _, message in FILES])
def test_what_is_wrong_is_one_line_with_its_place(case, message):
    with pytest.raises(InputError) as error:
        load(**case)
    assert message in str(error.value) and "\n" not in str(error.value), error.value


def test_columns_that_are_asked_for_and_missing_are_told(caplog):
    load(load_col={"inter": ["user_id", "item_id", "ratng"]})
    assert "load_col: 'data/mine/mine.inter' has no column 'ratng'. Did you mean 'rating'?" in caplog.text


def test_a_data_set_that_recbole_saved_needs_no_files():
    dataset = load()
    Path("saved").mkdir()
    Path("saved/mine-Dataset.pth").write_bytes(pickle.dumps(dataset))
    Path("data/mine/mine.inter").unlink()
    fixed = {"model": "NeuMF", "dataset": "mine", "data_path": "data", "load_col": None}
    assert load_dataset(RAWPConfig(config_dict=fixed)).inter_num == 5


def test_all_files_of_a_knowledge_graph_are_looked_at(settings):
    toy_data.write(Path("data"))
    file = Path("data/toy/toy.link")
    for header, message in (
        ("item:token", "ITEM_ID_FIELD: no column 'item_id' is"),
        ("item_id", "line 1: 'item_id' is"),
    ):
        rows = file.read_text().splitlines()[1:]
        file.write_text("\n".join([f"{header}\tentity_id:token", *rows]) + "\n")
        with pytest.raises(InputError, match=message):
            load_dataset(RAWPConfig(config_dict=settings("KGCN", data_path="data")))
    columns = {"inter": ["user_id", "item_id"], "kg": ["head_id", "relation_id", "tail_id"]}
    with pytest.raises(InputError, match="load_col: KGCN needs the columns of .link, of which it names none"):
        load_dataset(RAWPConfig(config_dict=settings("KGCN", data_path="data", load_col=columns)))


def test_bad_files_are_status_2_and_leave_nothing(capsys):
    Path("data/mine").mkdir(parents=True)
    Path("data/mine/mine.inter").write_text(INTER.replace("\t", ";") + BODY.replace("\t", ";"))
    assert main(["train", "-m", "NeuMF", "-d", "mine", "--data_path=data"]) == 2
    assert "Say --field_separator=';'." in capsys.readouterr().err
    assert not Path("runs").exists()


def test_a_file_in_the_folders_place_is_one_line():
    Path("data").mkdir()
    Path("data/mine").write_text("a file")
    with pytest.raises(InputError, match="dataset: cannot read 'data/mine': Not a directory"):
        load_dataset(RAWPConfig(config_dict={"model": "NeuMF", "dataset": "mine", "data_path": "data"}))
