"""Do candidates survive their file, and is a list refused that belongs to another dataset?"""

from __future__ import annotations

from ast import literal_eval
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from recbole_rawp.errors import InputError
from recbole_rawp.host.ranking import candidate_files, candidates
from tests.test_candidates import built, positives, same


def test_saved_candidates_come_back(settings, tmp_path):
    _, loader = built(settings)
    chosen = candidates.draw(loader, 1)
    candidate_files.write_candidates(tmp_path / "candidates.npz", chosen, loader._dataset)
    assert [path.name for path in tmp_path.iterdir() if "candidates" in path.name] == ["candidates.npz"]
    loaded = candidate_files.read_candidates(tmp_path / "candidates.npz", loader._dataset)
    assert same(loaded, chosen) and {items.dtype for items in loaded.values()} == {np.dtype(np.int64)}
    candidate_files.write_candidates(tmp_path / "none.npz", {}, loader._dataset)
    assert candidate_files.read_candidates(tmp_path / "none.npz", loader._dataset) == {}


@pytest.fixture
def one_out(settings):
    """A loader with one test positive for each user."""
    return built(settings, eval_args={"split": {"LS": "valid_and_test"}})[1]


def published(loader, path, count=20, **changes):
    """Write a list in raw tokens for the users of the loader; `changes` by user token replace the negatives."""
    names = loader._dataset.field2id_token
    lines, expected = [], {}
    for user, own in positives(loader).items():
        token = names["user_id"][user]
        negatives = [item for item in range(61, 0, -1) if item not in own][:count]
        items = changes.get(token, [names["item_id"][item] for item in negatives])
        lines.append("\t".join([f"({token},{names['item_id'][own[0]]})", *items]))
        expected[user] = np.array(negatives)
    path.write_text("\n".join(lines) + "\n")
    return expected


def test_a_published_list_is_read_in_raw_tokens_and_longer_ones_are_cut(one_out, tmp_path):
    path = tmp_path / "toy.test.negative"
    expected = published(one_out, path, count=30)
    loaded = candidate_files.read_candidates(path, one_out._dataset)
    assert same(loaded, expected)
    fitting = candidates.check(loaded, one_out)
    assert all(np.array_equal(fitting[user], expected[user][:20]) for user in expected)


def test_a_published_negative_that_is_to_be_found_gives_its_place_to_another(one_out, tmp_path):
    """NCF's ranking, a dict by item, holds it once; so does RecBole's, but its row would be labelled 0."""
    path = tmp_path / "toy.test.negative"
    user, (own,) = next(iter(positives(one_out).items()))
    names = one_out._dataset.field2id_token
    published(one_out, path, **{names["user_id"][user]: [f"i{n}" for n in range(20)] + [names["item_id"][own]]})
    others = [n for n in range(20) if f"i{n}" != names["item_id"][own]]
    loaded = candidates.check(candidate_files.read_candidates(path, one_out._dataset), one_out)
    assert set(loaded[user]) == {one_out._dataset.token2id("item_id", f"i{n}") for n in others}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("(u1,i2)\ti3\ti99", r"line 2: token \[i99\] is not existed in item_id"),
        ("(x1,i2)\ti3\ti4", r"line 2: token \[x1\] is not existed in user_id"),
        ("(u1,i99)\ti3\ti4", r"line 2: token \[i99\] is not existed in item_id"),
        ("u1\ti3\ti4", r"line 2: 'u1' is not \(user,item\)"),
        ("", r"line 2: '' is not \(user,item\)"),
    ],
)
def test_a_line_that_does_not_belong_is_named(line, message, one_out, tmp_path):
    path = tmp_path / "toy.test.negative"
    path.write_text(f"(u0,i0)\ti3\ti4\n{line}\n")
    with pytest.raises(InputError, match=message):
        candidate_files.read_candidates(path, one_out._dataset)


def test_a_list_is_found_in_the_data_sets_folder_too_as_recbole_names_the_files_of_a_split(one_out, tmp_path):
    folder = tmp_path / "home"
    folder.mkdir()
    dataset = SimpleNamespace(dataset_path=str(folder), dataset_name="toy")
    names = ["toy.test.negative", "test.negative"]
    assert [candidate_files.found(Path(name), dataset) for name in names] == [Path(name) for name in names]
    (folder / names[0]).touch()
    assert {candidate_files.found(Path(name), dataset) for name in names} == {folder / names[0]}
    Path(names[0]).touch()
    assert [candidate_files.found(Path(name), dataset) for name in names] == [Path(names[0]), folder / names[0]]
    with pytest.raises(InputError, match=rf"cannot read 'none.npz'.*'{one_out._dataset.dataset_path}'"):
        candidate_files.read_candidates(Path("none.npz"), one_out._dataset)


@pytest.mark.parametrize("name", ["absent.npz", "absent.test.negative", "text.npz", "empty.npz", "array.npz"])
def test_a_file_that_cannot_be_read_is_named(name, one_out, tmp_path):
    (tmp_path / "text.npz").write_text("no archive")
    (tmp_path / "empty.npz").write_text("")
    with open(tmp_path / "array.npz", "wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(InputError, match=f"cannot read '.*{name}'"):
        candidate_files.read_candidates(tmp_path / name, one_out._dataset)


@pytest.mark.parametrize("name, value", [("dataset_name", "'other'"), ("user_num", "47"), ("item_num", "63")])
def test_candidates_of_another_dataset_are_refused(name, value, one_out, tmp_path):
    dataset = one_out._dataset
    other = SimpleNamespace(dataset_name="toy", user_num=dataset.user_num, item_num=dataset.item_num)
    setattr(other, name, literal_eval(value))
    candidate_files.write_candidates(tmp_path / "other.npz", {1: np.array([5])}, other)
    message = f"attack_candidates: '.*other.npz' is of a dataset with {name} {value}, and here it is .*. Draw them anew"
    with pytest.raises(InputError, match=message):
        candidate_files.read_candidates(tmp_path / "other.npz", dataset)
