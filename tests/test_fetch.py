"""Does `fetch` write RecBole's files of MovieLens 1M, go on where it ended, and keep nothing that is damaged?

Tried against a server of this process only, with an archive of the same form.
"""

from __future__ import annotations

import hashlib
import io
import re
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from recbole.config import Config
from recbole.data import create_dataset

from recbole_rawp.cli.main import main
from recbole_rawp.errors import InputError
from recbole_rawp.jobs.data_sets.movielens import fetch

RATINGS = [(user, 1 + (user * item) % 7, 1 + item % 5, 1000 + item) for user in range(1, 6) for item in range(4)]
MOVIES = ["1::Toy Story (1995)::Animation|Children's|Comedy", "2::Cité des enfants perdus, La (1995)::Sci-Fi"]
MOVIES += [f"{number}::Film (No.) {number} (2000)::Drama" for number in range(3, 8)]


@pytest.fixture(scope="module")
def archive():
    """The bytes of an archive of GroupLens' form."""
    parts = {
        "ratings.dat": "\n".join("::".join(map(str, row)) for row in RATINGS),
        "users.dat": "\n".join(f"{user}::F::25::{user}::4805{user}" for user in range(1, 6)),
        "movies.dat": "\n".join(MOVIES),
    }
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as opened:
        for name, text in parts.items():
            opened.writestr(f"ml-1m/{name}", (text + "\n").encode("latin-1"))
    return content.getvalue()


class Site(BaseHTTPRequestHandler):
    """Answers with `content`; `ranges` as GroupLens' site does, and `cut` off after so many bytes."""

    content, ranges, cut, asked = b"", True, None, []

    def do_GET(self):
        self.asked.append(self.headers.get("Range"))
        begin = int(re.findall(r"\d+", self.asked[-1])[0]) if self.ranges and self.asked[-1] else 0
        if begin >= len(self.content):
            self.send_error(416)
            return
        self.send_response(206 if begin else 200)
        self.send_header("Content-Length", str(len(self.content) - begin))
        self.end_headers()
        self.wfile.write(self.content[begin : self.cut])

    def log_message(self, *words):
        pass


@pytest.fixture
def site(archive, tmp_path, monkeypatch):
    """A class of answers to change, and what fetches from its address."""
    monkeypatch.chdir(tmp_path)
    answers = type("Answers", (Site,), {"content": archive, "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    place = {"site": f"http://127.0.0.1:{server.server_port}", "md5": hashlib.md5(archive).hexdigest()}
    yield answers, lambda **more: fetch("ml-1m", **{"accepted": True, **place, **more})
    server.shutdown()
    server.server_close()


def test_the_files_are_recboles_and_it_loads_them(site):
    _, get = site
    assert get() == {"folder": "dataset/ml-1m", "ratings": 20, "users": 5, "movies": 7}
    assert sorted(path.name for path in Path("dataset").rglob("*")) == [
        "ml-1m",
        "ml-1m.inter",
        "ml-1m.item",
        "ml-1m.user",
    ]
    items = Path("dataset/ml-1m/ml-1m.item").read_text(encoding="utf-8").splitlines()
    assert items[1:4] == [
        "1\tToy Story\t1995\tAnimation Children's Comedy",
        "2\tCité des enfants perdus, La\t1995\tSci-Fi",
        "3\tFilm (No.) 3\t2000\tDrama",
    ]
    assert Path("dataset/ml-1m/ml-1m.user").read_text().splitlines()[1] == "1\t25\tF\t1\t48051"
    columns = {
        "inter": ["user_id", "item_id", "rating", "timestamp"],
        "item": ["item_id", "genre"],
        "user": ["user_id"],
    }
    data = create_dataset(Config("BPR", "ml-1m", config_dict={"load_col": columns, "data_path": "dataset"}))
    assert (data.inter_num, data.user_num) == (20, 6)
    assert data.inter_feat["rating"].tolist() == [row[2] for row in RATINGS]


@pytest.mark.parametrize("ranges", [True, False])
def test_it_goes_on_where_it_ended(site, archive, ranges):
    answers, get = site
    answers.ranges, answers.cut = ranges, 200
    with pytest.raises(InputError, match=r"it ended after 200 of \d+ bytes\. The same command goes on where it ended"):
        get()
    assert Path("dataset/ml-1m.zip").read_bytes() == archive[:200] and not Path("dataset/ml-1m").exists()
    answers.cut = None
    assert get()["ratings"] == 20
    assert answers.asked == [None, "bytes=200-"]


def test_an_archive_that_is_there_is_taken_and_another_one_removed(site, archive):
    _, get = site
    Path("dataset").mkdir()
    Path("dataset/ml-1m.zip").write_bytes(archive)
    assert get()["movies"] == 7
    Path("other").mkdir()
    Path("other/ml-1m.zip").write_bytes(archive[::-1])
    with pytest.raises(InputError, match="the archive's MD5 is .*, and the published one .*: it is damaged or another"):
        get(data_path="other")
    assert not any(Path("other").iterdir())


def test_what_cannot_work_is_one_line_and_nothing_is_asked_for(site, capsys):
    answers, get = site
    for more, reason in (
        ({"accepted": False}, "GroupLens' terms for ml-1m .* --accept_terms if you agree"),
        ({"site": "http://127.0.0.1:9"}, "cannot get http://127.0.0.1:9/ml-1m.zip: .*refused"),
    ):
        with pytest.raises(InputError, match=reason):
            get(**more)
    with pytest.raises(InputError, match="'ml-10m' cannot be fetched, ml-1m can; ml-100k ships with RecBole"):
        fetch("ml-10m", accepted=True)
    Path("dataset/ml-1m").mkdir(parents=True)
    with pytest.raises(InputError, match="'dataset/ml-1m' is there already. Nothing is overwritten"):
        get()
    assert main(["fetch", "ml-1m", "--data_path=new"]) == 2 and main(["fetch", "ml-1m", "--epochs=1"]) == 2
    errors = capsys.readouterr().err
    assert "type --accept_terms if you agree" in errors and "fetch takes --data_path and --accept_terms alone" in errors
    assert not answers.asked and not Path("new").exists()
