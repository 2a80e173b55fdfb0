"""Holds bad values for each option, and files broken in ways that `bad_values` tries: what must be refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from recbole_rawp.config.option import Domain
from recbole_rawp.config.schema import OPTIONS

BY_DOMAIN: dict[str, tuple[str, ...]] = {  # what each domain must refuse, as typed; more than four are allowed
    "bool": ("maybe", "2", "[]", "null"),
    "float >= 0": ("-1", "nan", "much", "[1]"),
    "float > 0": ("0", "-0.1", "inf", "much"),
    "float in (0, 1e6]": ("0", "-0.1", "inf", "1e7", "much"),
    "float in (0, 1]": ("0", "1.01", "nan", "half"),
    "float in (0, 1)": ("0", "1", "-0.1", "half"),
    "float in [0, 1)": ("1", "-0.1", "nan", "half"),
    "int >= 1": ("0", "-1", "1.5", "many"),
    "int >= 0": ("-1", "0.5", "many", "True"),
    "path": ("''", "7", "[a]", "nowhere/there.bin"),
    "word": ("''", "3", "[int4]", "nonsense"),
    "name or YAML file": ("''", "7", "nonsense", "nowhere.yaml"),
    "suite, YAML file, or list of methods": ("''", "[]", "nonsense", "[nonsense]", "nowhere.yaml"),
}
PLAIN = ("rawp_radius=0.1", "defense=rawp_reference")
BY_OPTION: dict[str, tuple[str, ...]] = {
    "rawp_target": ("[]", "5", "{a: 1}", "nonsense*"),
    "attack_target": ("[]", "5", "{a: 1}", "nonsense*"),
    "rawp_layer_weights": ("heavy", "{}", "{'*': -1}", "{'*': 0}", "3"),
    "attack_radii": ("[]", "[-1]", "[a]", "0.1", "[nan]"),
    "attack_labels": ("nonsense", "3", "[truth]", "TRUTH"),
    "rawp_output_dir": ("''", "7", "[a]", "file.txt", "full", "file.txt/below"),
    "attack_candidates": ("''", "7", "nowhere.npz", "full", "file.txt"),
    "attack_checkpoint": ("''", "7", "nowhere.pth", "full", "file.txt"),
}
BESIDE = {  # what makes the option count
    "attack_candidates": ("--attack=[fgsm]", "--attack_scope=per_user", "--attack_granularity=row"),
    "attack_checkpoint": ("--attack=[drift]",),
    "rawp_perturbation": ("--defense=rawp_reference",),
    "rawp_perturbation_level": ("--defense=rawp_reference", "--rawp_perturbation=pruning"),
}
OF_COMMANDS: dict[str, tuple[str, ...]] = {
    "baseline": ("7", "maybe", "[]", "null"),
    "trust_checkpoint": ("7", "maybe", "[]", "null"),
    "resume": ("nowhere", "full", "file.txt", ""),
    "config_files": ("nowhere.yaml", "full", "file.txt", "data/toy/toy.inter"),
}
OF_GRIDS: dict[str, tuple[str, ...]] = {
    "models": ("", "NoModel", "NeuMF,NoModel", "nowhere:Class"),
    "datasets": ("", "nodata", "toy,nodata", "a/b"),
    "defenses": ("", "nonsense", "none,nonsense", "nowhere.yaml"),
    "seeds": ("0", "-1", "many", "[]", "1.5"),
}


def values(name: str) -> tuple[str, ...]:
    """Return what the option must refuse, as typed."""
    domain: Domain = OPTIONS[name].domain
    words = domain.words.removesuffix(" or null").removesuffix(" or auto")
    if name in BY_OPTION:
        return BY_OPTION[name]
    return BY_DOMAIN.get(words, ("nonsense", "3", "[a]", "''"))


def header_of(text: str) -> Callable[[bytes], bytes]:
    """Return what puts another header before the rows."""
    return lambda content: text.encode() + content[content.index(b"\n") :]


DATA: dict[str, Callable[[bytes], bytes]] = {  # what becomes of toy.inter
    "empty": lambda content: b"",
    "header alone": lambda content: content[: content.index(b"\n") + 1],
    "no header": lambda content: content[content.index(b"\n") + 1 :],
    "commas": lambda content: content.replace(b"\t", b","),
    "no types": header_of("user_id\titem_id\trating\ttimestamp"),
    "unknown type": header_of("user_id:token\titem_id:word\trating:float\ttimestamp:float"),
    "no user_id": header_of("user:token\titem_id:token\trating:float\ttimestamp:float"),
    "column twice": header_of("user_id:token\titem_id:token\trating:float\trating:float"),
    "bytes": lambda content: bytes(range(256)) * 8,
    "UTF-16": lambda content: content.decode().encode("utf-16"),
    "word for a number": lambda content: content + b"u1\ti1\tgood\t7\n",
}
SETTINGS = {  # of a file of settings; also of a defense, which is one
    "no YAML": "a: [1",
    "a list": "- defense: none",
    "a word": "defense",
    "bytes": "\x00\x01\x02",
    "unknown option": "rawp_radios: 0.1",
    "a key that is a number": "7: 1",
}
NAMED = {"unknown option": "rawp_radios", "a key that is a number": "7"}  # in place of the file
SUITES = {
    "empty": "",
    "no YAML": "- methods: [fgsm",
    "a mapping": "methods: [fgsm]",
    "no methods": "- radii: [0.1]",
    "unknown method": "- methods: [fgms]\n  radii: [0.1]",
    "unknown key": "- methods: [fgsm]\n  radius: [0.1]",
    "bad radii": "- methods: [fgsm]\n  radii: [-1]",
    "methods in a word": "- methods: fgsm\n  radii: [0.1]",
    "no radii": "- methods: [fgsm]",
    "two kinds": "- methods: [fgsm, int8]\n  radii: [0.1]",
    "bytes": "\x00\x01",
}


def checkpoints(good: Path, folder: Path) -> Iterator[tuple[str, Path]]:
    """Write checkpoints that are none; yield what is wrong, and the file."""
    content = good.read_bytes()
    for name, bytes_ in (
        ("empty", b""),
        ("text", b"no checkpoint\n"),
        ("first half", content[: len(content) // 2]),
        ("last half", content[len(content) // 2 :]),
        ("zeros inside", content[:2000] + bytes(2000) + content[4000:]),
    ):
        file = folder / f"{name.replace(' ', '-')}.pth"
        file.write_bytes(bytes_)
        yield name, file
    whole = torch.load(good, weights_only=False)
    for name, thing in (
        ("a list", [1, 2]),
        ("weights alone", whole["state_dict"]),
        ("no config", {key: value for key, value in whole.items() if key != "config"}),
        ("config of words", whole | {"config": {"model": "NeuMF"}}),
        ("no weights", {key: value for key, value in whole.items() if key != "state_dict"}),
        ("other weights", whole | {"state_dict": {"a": torch.ones(2)}}),
        ("weights of words", whole | {"state_dict": "weights"}),
    ):
        file = folder / f"{name.replace(' ', '-')}.pth"
        torch.save(thing, file)
        yield name, file
    (folder / "folder.pth").mkdir()
    yield "a folder", folder / "folder.pth"
    yield "none", folder / "none.pth"


COMPARISONS = {  # comparison.yaml of a folder
    "no YAML": "a: [1",
    "a list": "- 1",
    "empty": "",
    "bytes": "\x00\x01",
    "no models": "datasets: [toy]\ndefenses: [none]\nseeds: [1]",
    "defenses a number": "models: [NeuMF]\ndatasets: [toy]\ndefenses: 3\nseeds: [1]",
    "seeds in words": "models: [NeuMF]\ndatasets: [toy]\ndefenses: [none]\nseeds: [many]\noptions: {data_path: data}",
    "options a list": "models: [NeuMF]\ndatasets: [toy]\ndefenses: [none]\nseeds: [1]\noptions: [1]",
}


def candidates(folder: Path) -> Iterator[tuple[str, Path]]:
    """Write files of candidates that are none; yield what is wrong, and the file."""
    for bad, content in (("empty", b""), ("text", b"a file"), ("bytes", bytes(range(256)))):
        (folder / f"{bad}.npz").write_bytes(content)
        yield bad, folder / f"{bad}.npz"
    for bad, arrays in (("no arrays", {}), ("others", {"a": np.ones(3)}), ("objects", {"users": np.array([{}])})):
        np.savez(folder / f"{bad}.npz", **arrays)
        yield bad, folder / f"{bad}.npz"


RUNS: dict[str, Callable[[Path], object]] = {  # what becomes of the folder of a run before --resume
    "no settings": lambda run: (run / "settings.yaml").unlink(),
    "settings empty": lambda run: (run / "settings.yaml").write_text(""),
    "settings no YAML": lambda run: (run / "settings.yaml").write_text("a: [1"),
    "settings a list": lambda run: (run / "settings.yaml").write_text("- 1"),
    "settings in bytes": lambda run: (run / "settings.yaml").write_bytes(b"\xff\xfe\x00"),
    "settings of no model": lambda run: (run / "settings.yaml").write_text("dataset: toy"),
    "settings a folder": lambda run: ((run / "settings.yaml").unlink(), (run / "settings.yaml").mkdir()),
    "state empty": lambda run: (run / "resume.pt").write_bytes(b""),
    "state in text": lambda run: (run / "resume.pt").write_text("state"),
    "state cut": lambda run: (run / "resume.pt").write_bytes((run / "resume.pt").read_bytes()[:5000]),
    "state a list": lambda run: torch.save([1], run / "resume.pt"),
    "state of another run": lambda run: torch.save(
        torch.load(run / "resume.pt", weights_only=True) | {"fingerprint": "x"}, run / "resume.pt"
    ),
    "model cut": lambda run: (run / "model.pth").write_bytes((run / "model.pth").read_bytes()[:5000]),
    "model missing": lambda run: (run / "model.pth").unlink(),
    "digests no JSON": lambda run: (run / "digests.json").write_text("{"),
    "digests a list": lambda run: (run / "digests.json").write_text("[1]"),
}


def broken(run: Path, folder: Path) -> Iterator[tuple[str, Path]]:
    """Break copies of a run's folder; yield what is wrong, and the copy."""
    for name, break_ in RUNS.items():
        copy = folder / name.replace(" ", "-")
        shutil.copytree(run, copy)
        break_(copy)
        yield name, copy
