"""Do the settings that the documentation has for data of one's own work as they stand?"""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from recbole_rawp.host.config import RAWPConfig
from recbole_rawp.host.preparation import prepare
from recbole_rawp.host.rehearsal import check_evaluation, check_training
from tests.training import made

DOCS = Path(__file__).parent.parent / "docs"
FILES = sorted((DOCS / "own-data").glob("*.yaml"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_file_trains_and_evaluates(file, data_path):
    config = RAWPConfig(config_file_list=[str(file)], config_dict={"dataset": "toy", "data_path": data_path}, argv=[])
    data, model = prepare(config)
    check_training(config, model, data.train)
    trainer, _ = made(config, (data, model))
    for loader in (data.valid, data.test):
        check_evaluation(trainer, train_data=data.train, eval_data=loader, trained=True)
    assert (
        config["dataset"] == "toy" and type(model).__name__ == yaml.safe_load(file.read_text(encoding="utf-8"))["model"]
    )


def test_the_page_names_each_file_in_a_command():
    page = (DOCS / "own-data.md").read_text(encoding="utf-8")
    assert len(FILES) == 3 and all(f"--config_files={file.name} " in page for file in FILES)
