"""A published split becomes a data set that RecBole loads, whole or not at all, and is ranked as published."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recbole_rawp import run_recbole_rawp
from recbole_rawp.cli.main import main
from recbole_rawp.config.shipped import properties
from recbole_rawp.errors import InputError
from recbole_rawp.host.config import RAWPConfig
from recbole_rawp.host.preparation import prepare
from recbole_rawp.jobs.data_sets import convert
from tests.conftest import TOY

USERS, ITEMS = 23, 131
LOO = str(properties() / "published" / "loo.yaml")
SHORT = {1: 1, 2: 2, 3: 3}  # user -> training interactions, of those with few


@pytest.fixture
def published():
    """Write Data/toy.{train.rating,test.rating,test.negative}, and return the rows of the first two and the lists."""
    random = np.random.default_rng(0)
    train, test, lists = [], [], []
    for user in range(USERS):
        items = random.permutation(ITEMS)
        own = items[: SHORT.get(user, 7)]
        train += [(user, item, random.integers(1, 6), 1000 + place) for place, item in enumerate(own)]
        test.append((user, items[-1], 5, 2000))
        lists.append((f"({user},{items[-1]})", *items[-100:-1]))
    for user, items in {USERS: range(66), USERS + 1: range(66, ITEMS - 1)}.items():  # so that every item is known
        train += [(user, item, 1, 0) for item in items]
        test.append((user, ITEMS - 1, 1, 1))
        lists.append((f"({user},{ITEMS - 1})", *range(99)))  # some are the user's own: kept, as published
    Path("Data").mkdir()
    for name, rows in {"train.rating": train, "test.rating": test, "test.negative": lists}.items():
        Path("Data", f"toy.{name}").write_text("".join("\t".join(map(str, row)) + "\n" for row in rows))
    return train, test, lists


def loaded(folder, part):
    return pd.read_csv(Path(folder, f"{Path(folder).name}.{part}.inter"), sep="\t")


def test_nothing_is_lost_and_one_training_row_of_each_user_with_three_is_for_validation(published):
    train, test, _ = published
    found = convert.convert("Data/toy", "toy-loo", data_path="data")
    assert found == {
        **{"folder": "data/toy-loo", "users": USERS + 2, "items": ITEMS, "negatives": 99},
        **{"train": len(train) - USERS, "valid": USERS, "all": len(train), "test": USERS + 2},
    }
    parts = {part: loaded("data/toy-loo", part) for part in ("train", "valid", "all", "test")}
    assert all([*part] == [*convert.COLUMNS] for part in parts.values())
    rows = {part: [tuple(row) for row in frame.to_numpy().tolist()] for part, frame in parts.items()}
    assert rows["test"] == test and rows["all"] == train
    assert Counter(rows["train"] + rows["valid"]) == Counter(train)
    assert [row for row in train if row not in rows["valid"]] == rows["train"], "the order has changed"
    assert [row[0] for row in rows["valid"]] == [user for user in range(USERS + 2) if user not in (1, 2)]
    assert Path("data/toy-loo/toy-loo.test.negative").read_text() == Path("Data/toy.test.negative").read_text()


def test_the_draw_is_the_seeds(published):
    for name, seed in {"one": 2020, "same": 2020, "other": 7}.items():
        convert.convert("Data/toy", name, seed=seed)
    one, same, other = (loaded(f"dataset/{name}", "valid") for name in ("one", "same", "other"))
    assert one.equals(same) and not one.equals(other)


@pytest.mark.parametrize("columns", [2, 3])
def test_ratings_and_timestamps_may_be_missing(columns, published):
    for part in ("train", "test"):
        path = Path(f"Data/toy.{part}.rating")
        rows = [line.split("\t")[:columns] for line in path.read_text().split("\n") if line]
        path.write_text("\r\n".join(map("\t".join, rows)))  # as Windows ends lines, the last one not at all
    convert.convert("Data/toy", "toy-loo", data_path="data")
    assert all([*loaded("data/toy-loo", part)] == [*convert.COLUMNS[:columns]] for part in ("train", "valid", "test"))
    _, test, _ = published
    assert [tuple(row) for row in loaded("data/toy-loo", "test").to_numpy().tolist()] == [r[:columns] for r in test]


def test_recbole_ranks_the_published_negatives(published, capsys):
    assert main(["convert", "Data/toy", "--dataset=toy-loo", "--data_path=data"]) == 0
    assert "data/toy-loo: 25 users, 131 items; " in capsys.readouterr().out
    tiny = {key: TOY[key] for key in ("epochs", "ft_epochs", "state", "show_progress")}
    config = {**tiny, "data_path": "data", "defense": "none", "attack_radii": [0.01], "rawp_output_dir": "out"}
    result = run_recbole_rawp("NeuMF", "toy-loo", [LOO], config)
    assert {c.name: c.status for c in result["checks"]}["level 0 equals RecBole's own evaluation"] == "passed"
    data, _ = prepare(RAWPConfig("NeuMF", "toy-loo", [LOO], config))
    dataset, (_, _, lists) = data.test._dataset, published
    saved = np.load("out/candidates.npz")
    ranked = {
        str(dataset.id2token("user_id", user)): list(map(int, dataset.id2token("item_id", saved["items"][start:end])))
        for user, start, end in zip(saved["users"], saved["offsets"][:-1], saved["offsets"][1:])
    }
    assert ranked == {pair[1:].split(",")[0]: list(items) for pair, *items in lists}
    assert [len(part._dataset.inter_feat) for part in data[1:]] == [USERS, USERS + 2]


def edit(part, line, new):
    """Change a line, by its number, of a file of the split: `new` in its place, or nothing if None."""
    path = Path(f"Data/toy.{part}")
    rows = path.read_text().splitlines()
    rows[line - 1 : line] = [] if new is None else [new]
    path.write_text("\n".join(rows) + "\n")


@pytest.mark.parametrize(
    ("part", "line", "new", "message"),
    [
        ("train.rating", 2, "0\t1", r"train.rating' line 2: 2 columns. Write user, item, rating, timestamp with tabs"),
        ("train.rating", 1, "user\titem\trating\ttime", "train.rating' line 1: 'rating' is no number"),
        ("train.rating", 3, "0\t\t5\t1", "train.rating' line 3: a column is empty"),
        ("train.rating", 3, "0\t1\tnan\t1", "train.rating' line 3: 'nan' is no number"),
        ("train.rating", 230, "23\t1\t1\t1", r"train.rating' line \d+: user '23' has item '1' twice. Keep one"),
        ("test.rating", 1, "0 1 5 1", "test.rating' line 1: 1 columns"),
        ("test.rating", 24, "23\t1\t5\t1", "test.rating': user '23' has item '1' in the training file, too"),
        ("test.negative", 25, None, "test.negative' ends after 24 lines, and the test file has 25. Get the whole file"),
        ("test.negative", 2, None, r"test.negative' line 2: '\(2,\d+\)', where the test file has \(1,\d+\)"),
        ("test.negative", 24, "(23,130)\t1\t2", "test.negative' line 24: 2 negatives. Each line has as many as the"),
        ("test.negative", 1, "(0,x)\t1", r"test.negative' line 1: '\(0,x\)', where the test file has"),
        ("test.negative", 24, "(23,130)\t131" + "\t1" * 98, "test.negative' line 24: item '131' is in no interaction"),
        ("test.negative", 25, "(24,130)" + "\t1" * 99 + "\n(25,1)\t1", r"line 26: '\(25,1\)', where .* has nothing"),
    ],
)  # fmt: skip
def test_a_line_that_cannot_be_right_is_named_and_nothing_is_written(part, line, new, message, published, capsys):
    edit(part, line, new)
    with pytest.raises(InputError, match=message):
        convert.convert("Data/toy", "toy-loo", data_path="data")
    assert main(["convert", "Data/toy", "--dataset=toy-loo", "--data_path=data"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("recbole-rawp: convert: ") and error.count("\n") == 1
    assert not Path("data").exists()


@pytest.mark.parametrize("content", [None, b"\xff\xfe", b"", b"\n\n"])
def test_a_file_that_is_missing_or_no_text_or_empty_is_named(content, published):
    path = Path("Data/toy.test.rating")
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(InputError, match=r"'Data/toy.test.rating'"):
        convert.convert("Data/toy", "toy-loo", data_path="data")
    assert not Path("data").exists()


def test_training_and_test_files_have_the_same_columns(published):
    path = Path("Data/toy.test.rating")
    path.write_text("".join(line.rsplit("\t", 1)[0] + "\n" for line in path.read_text().splitlines()))
    with pytest.raises(InputError, match="test.rating' has 3 columns, and the training file 4. Cut both alike"):
        convert.convert("Data/toy", "toy-loo")


def test_a_split_without_anything_to_validate_on_is_refused(published):
    Path("Data/toy.train.rating").write_text("".join(f"{item % 99}\t{item}\t1\t1\n" for item in range(ITEMS)))
    Path("Data/toy.test.rating").write_text("0\t1\t1\t1\n")
    Path("Data/toy.test.negative").write_text("(0,1)\t2\t3\n")
    with pytest.raises(InputError, match=r"no user of 'Data/toy.train.rating' has 3 interactions"):
        convert.convert("Data/toy", "toy-loo")


def test_nothing_is_overwritten_and_a_failure_leaves_nothing(published, monkeypatch):
    Path("data/toy-loo").mkdir(parents=True)
    Path("data/toy-loo/mine").write_text("mine")
    with pytest.raises(InputError, match=r"'data/toy-loo' is there already. Nothing is overwritten"):
        convert.convert("Data/toy", "toy-loo", data_path="data")
    with pytest.raises(InputError, match="cannot write 'data/toy-loo': Directory not empty"):  # a rival was faster
        convert.write(Path("data/toy-loo"), {"theirs": [("a", "b")]})
    write_text, written = Path.write_text, []

    def full(path, *args, **kwargs):
        written.append(path)
        if len(written) == 3:
            raise OSError(28, "No space left on device")
        return write_text(path, *args, **kwargs)

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(InputError, match="cannot write 'data/other': No space left"):
        convert.convert("Data/toy", "other", data_path="data")
    assert [path.name for path in Path("data").rglob("*")] == ["toy-loo", "mine"]
    assert Path("data/toy-loo/mine").read_text() == "mine"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["convert"], "convert: name the beginning of the files' names, as in `recbole-rawp convert Data/yelp`"),
        (["convert", "Data/toy"], "--dataset: missing. Name the data set that is written, as in --dataset=yelp-loo"),
        (["convert", "Data/toy", "-d", "x", "--epochs=1"], "--epochs: convert takes --dataset, --data_path and --seed"),
        (["convert", "Data/toy", "-d", "x", "--seed=-1"], "seed: -1 is not valid; expected int >= 0"),
        (["convert", "Data/none", "-d", "x"], "cannot read 'Data/none.train.rating'"),
    ],
)
def test_a_wrong_command_is_one_line_and_status_2(words, message, published, capsys):
    assert main(words) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not Path("dataset").exists()
