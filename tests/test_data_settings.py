"""Are RecBole's settings of data read as they are meant, or refused before RecBole passes over them?"""

from __future__ import annotations

import pytest

from recbole_rawp.cli.main import main
from recbole_rawp.config.command_line import literal
from recbole_rawp.errors import InputError
from recbole_rawp.host.config import RAWPConfig

TYPED = {
    "{split:{'LS':'valid_and_test'},order:RO,mode:uni5}": {
        "split": {"LS": "valid_and_test"},
        "order": "RO",
        "mode": "uni5",
    },
    "{split:{RS:[8,1,1]},mode:{valid:uni5,test:full}}": {
        "split": {"RS": [8, 1, 1]},
        "mode": {"valid": "uni5", "test": "full"},
    },
    "{'split':{'LS':'valid_and_test'},order:RO}": {"split": {"LS": "valid_and_test"}, "order": "RO"},
    "{rating:[3,inf),age:(1,2],kind:['a','b']}": {"rating": "[3,inf)", "age": "(1,2]", "kind": ["a", "b"]},
    "{max_norm:1e-3,norm_type: 2}": {"max_norm": 1e-3, "norm_type": 2},
    "{url:http://x,time: 12:30,none:null,}": {"url": "http://x", "time": 750, "none": None},
    "[{order:RO},a:b]": [{"order": "RO"}, "a:b"],
    "[3,inf)": "[3,inf)",
}


@pytest.mark.parametrize("text", TYPED)
def test_a_mapping_typed_without_blanks_is_read_as_meant(text):
    assert literal(text) == TYPED[text]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{order}", "'order' has no value. Write it as"),
        ("{order:RO,{mode}", "'mode' has no value"),
        ("{split={RS=[8,1,1]}}", "is no mapping"),
        ("{order: RO", "is no mapping"),
    ],
)
def test_what_begins_as_a_mapping_and_is_none_is_refused(text, message, capsys):
    for options in ([f"--eval_args={text}"], ["--eval_args", text]):
        assert main(["train", "-m", "NeuMF", "-d", "ml-100k", *options]) == 2
        error = capsys.readouterr().err
        assert "--eval_args: " in error and message in error and error.count("\n") == 1
    with pytest.raises(InputError, match="^eval_args: "):
        RAWPConfig("NeuMF", "ml-100k", config_dict={"eval_args": text})


def test_a_mapping_that_the_shell_took_apart_is_told(capsys):
    assert main(["train", "-m", "NeuMF", "--eval_args=order:RO", "--eval_args=mode:full"]) == 2
    assert "quote it, --eval_args='{...}': a shell takes mappings apart" in capsys.readouterr().err


WRONG = [
    ("eval_args", {"spilt": {"LS": "valid_and_test"}}, "there is no key 'spilt'. Did you mean 'split'?"),
    ("eval_args", {"order:RO": None}, "there is no key 'order:RO'. A blank belongs after each colon."),
    ("eval_args", {"split": {"ls": "valid_and_test"}}, "split: there is no key 'ls'. Did you mean 'LS'?"),
    ("eval_args", {"split": {"LS": "valid"}}, "split: LS: 'valid' is not valid; expected valid_and_test or"),
    ("eval_args", {"split": {"RS": [0.8, 0.2]}}, "split: RS: [0.8, 0.2] is not valid; expected three shares"),
    ("eval_args", {"split": {"RS": [0, 0, 0]}}, "split: RS: [0, 0, 0] is not valid"),
    ("eval_args", {"split": {"RS": [8, 1, 1], "LS": "valid_only"}}, "split: {"),
    ("eval_args", {"order": "random"}, "order: 'random' is not valid; expected RO (random) or TO (by time)"),
    ("eval_args", {"group_by": "item"}, "group_by: 'item' is not valid; expected user or none"),
    ("eval_args", {"mode": "uni"}, "mode: 'uni' is not valid; expected full, labeled, uniN"),
    ("eval_args", {"mode": {"valid": "full", "tset": "full"}}, "mode: there is no key 'tset'. Did you mean 'test'?"),
    ("eval_args", "order:RO", "'order:RO' is not valid; expected a mapping"),
    ("eval_args", None, "None is not valid; expected a mapping"),
    ("train_neg_sample_args", {"sample_nums": 2}, "there is no key 'sample_nums'. Did you mean 'sample_num'?"),
    ("train_neg_sample_args", {"strategy": "by"}, "there is no key 'strategy'. Known: distribution, sample_num"),
    ("train_neg_sample_args", {"sample_num": 0}, "sample_num: 0 is not valid; expected a whole number from 1 up"),
    ("train_neg_sample_args", {"distribution": "popular"}, "distribution: 'popular' is not valid; expected uniform"),
    ("train_neg_sample_args", {"dynamic": "yes"}, "dynamic: 'yes' is not valid; expected true or false"),
    ("load_col", {"iter": ["user_id"]}, "there is no key 'iter'. Did you mean 'inter'?"),
    ("load_col", {"inter": "user_id"}, "inter: 'user_id' is not valid; expected a list of columns"),
    ("load_col", ["user_id"], "['user_id'] is not valid; expected a mapping, such as {key: value} or null"),
    ("unload_col", {"inter": "*"}, "inter: '*' is not valid; expected a list of columns"),
    ("threshold", {"rating": "high"}, "{'rating': 'high'} is not valid; expected one column and a number"),
    ("val_interval", {"rating": "3"}, "rating: '3' is not valid; expected an interval such as '[3,inf)'"),
    ("user_inter_num_interval", 5, "5 is not valid; expected an interval such as '[3,inf)'"),
    ("user_inter_num_interval", "[x,inf)", "'[x,inf)' is not valid; expected an interval"),
    ("seq_len", {"class": 0}, "class: 0 is not valid; expected a whole number from 1 up"),
    ("discretization", {"rating": "ED"}, "rating: 'ED' is not valid; expected {method: LD}"),
    ("benchmark_filename", ["train", "test"], "expected three names: of training, valid and test data"),
    ("eval_batch_size", 0, "0 is not valid; expected a whole number from 1 up"),
    ("train_batch_size", None, "None is not valid; expected int"),
    ("seed", -1, "-1 is not valid; expected a number from 0 to 4294967295"),
    ("seed", "abc", "'abc' is not valid; expected int"),
    ("data_path", 2024, "2024 is not valid; expected a path; in a YAML file put it in quotes"),
    ("dataset", 2024, "2024 is not valid; expected a name"),
    ("dataset", "/data/toy", "'/data/toy' is a path. Say --data_path='/data' --dataset='toy'."),
    ("dataset", "../toy", "'../toy' is a path. Say --data_path='..' --dataset='toy'."),
]


@pytest.mark.parametrize(("key", "value", "message"), WRONG)
def test_what_recbole_would_pass_over_or_die_of_is_named(key, value, message):
    with pytest.raises(InputError) as error:
        RAWPConfig(config_dict={"model": "NeuMF", "dataset": "ml-100k", key: value})
    assert str(error.value).startswith(f"{key}: ") and message in str(error.value)
    assert "\n" not in str(error.value)


def test_all_that_recbole_takes_is_taken():
    taken = {
        "eval_args": {"split": {"TS": [0.8, 0.1, 0.1]}, "order": "TO", "mode": {"test": "pop100"}, "group_by": "none"},
        "train_neg_sample_args": {"distribution": "popularity", "alpha": 0.5, "dynamic": True, "candidate_num": 3},
        "load_col": {"inter": "*", "net": ["a"], "ent": ["ent_id"]},
        "additional_feat_suffix": "ent",
        "val_interval": {"rating": "[0,1];(2,inf)", "genre": ["a"], "age": [1, 5]},
        "user_inter_num_interval": None,
        "item_inter_num_interval": "(-inf,1e3]",
        "discretization": {"rating": {"method": "ED", "bucket": 3}},
        "threshold": {"rating": 0.5},
        "seed": 2**32 - 1,
    }
    config = RAWPConfig(config_dict={"model": "NeuMF", "dataset": "ml-100k", **taken})
    assert {key: config.external_config_dict[key] for key in taken} == taken
    fixed = {"model": "NeuMF", "dataset": "ml-100k"}
    for group, interval in (("NONE", "[1, infinity)"), ("None", "(-INF,1E3]"), (None, "[-inf, inf)")):
        given = {"user_inter_num_interval": interval, "eval_args": {**taken["eval_args"], "group_by": group}}
        RAWPConfig(config_dict={**fixed, **given})
    for value in (None, "None", {"distribution": "None"}):
        RAWPConfig("NeuMF", "ml-100k", config_dict={"train_neg_sample_args": value})


def test_a_folder_may_have_a_number_for_a_name(capsys):
    assert main(["train", "-m", "NeuMF", "-d", "none", "--data_path=2024"]) == 2
    assert "there is no folder '2024/none'" in capsys.readouterr().err


def test_a_run_that_began_with_such_settings_goes_on(tmp_path):
    begun = tmp_path / "settings.yaml"
    begun.write_text("model: NeuMF\ndataset: ml-100k\neval_args: {spilt: 3, mode: full}\n")
    assert RAWPConfig(begun=begun)["eval_args"]["spilt"] == 3
    with pytest.raises(InputError, match="there is no key 'spilt'"):
        RAWPConfig(begun=begun, config_dict={"eval_args": {"spilt": 4}})
