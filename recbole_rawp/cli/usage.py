"""Says what can be typed: the text of `recbole-rawp --help`."""

from __future__ import annotations

USAGE = """\
recbole-rawp trains a RecBole model whose ranking survives small changes of its weights, and measures it.

    recbole-rawp train --model=NeuMF --dataset=ml-100k --baseline
    recbole-rawp train --resume=runs/NeuMF-ml-100k-rawp_ft-20261124-120000
    recbole-rawp rank saved/NeuMF.pth
    recbole-rawp harden saved/NeuMF.pth --ft_epochs=5
    recbole-rawp attack saved/NeuMF.pth --attack=standard
    recbole-rawp compare --model=NeuMF --dataset=ml-100k --defenses=none,apr,rat,awp,rawp,rawp_ft --seeds=3
    recbole-rawp report runs/NeuMF-ml-100k-none-20261124-120000 runs/NeuMF-ml-100k-rawp_ft-20261124-130000
    recbole-rawp convert Data/yelp --dataset=yelp-loo --data_path=data
    python run_recbole_rawp.py -m NeuMF -d ml-100k --defense=awp --epochs=50 --config_files="my.yaml other.yaml"

train (the default)  trains with a defense, repairs the least robust module, attacks the result on test data, and
                     writes model.pth, records.csv, report.md, robustness.png and more into one new folder
rank CHECKPOINT      ranks the modules of any model that RecBole saved, least robust first
harden CHECKPOINT    repairs its least robust module, without training it first; the checkpoint is not touched
attack CHECKPOINT    attacks any model that RecBole saved: --attack=quick, standard, published, or a YAML file
report FOLDER...     puts what runs found side by side in one report
compare              trains every defense on every model and data set from every seed, attacks all alike, and reports
                     means, intervals, tests and what robustness costs; after a kill the same command with
                     --rawp_output_dir=FOLDER, or --resume=FOLDER alone, goes on
convert PREFIX       makes RecBole's files, in DATA_PATH/DATASET, of a split published as PREFIX.train.rating,
                     .test.rating and .test.negative; --seed draws a training interaction of each user for validation

  --model, -m NAME      a RecBole model trained by gradient descent, or package.module:Class
  --dataset, -d NAME    a RecBole dataset: ml-100k ships with RecBole, others belong into --data_path (dataset/)
  --config_files FILES  YAML files, separated by spaces; later ones win
  --baseline            also train the plain model; both in one table and one picture
  --resume FOLDER       go on with the run, or the comparison, in this folder, which was killed
  --defenses, --models, --datasets NAMES
                        compare: names with commas between them, each defense a file of properties/defense
  --seeds N | LIST      compare: how many seeds, from `seed` on (3), or the seeds themselves from 1000 up: 2020,2021
                        compare also takes config files for some runs: "all.yaml NeuMF:deep.yaml sam:small.yaml"
  --trust_checkpoint    load a checkpoint that holds what RecBole's do not need, and let its code run
  --KEY=VALUE           any option of RecBole, or of ours as listed below
  --help, --version

A .pth file is a pickle, which can run code when loaded: one that holds more than RecBole's need is refused.
"""


def option_reference() -> str:
    """Return properties/rawp.yaml, the reference of our options."""
    from recbole_rawp.config import shipped

    return (shipped.properties() / "rawp.yaml").read_text(encoding="utf-8")
