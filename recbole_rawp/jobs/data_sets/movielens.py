"""Fetches MovieLens 1M from GroupLens, who publish it, and writes RecBole's files of it."""

from __future__ import annotations

import hashlib
import http.client
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from recbole_rawp.errors import InputError
from recbole_rawp.jobs.data_sets.convert import Row, write

NAME = "ml-1m"
SITE = "https://files.grouplens.org/datasets/movielens"
MD5 = "c4d9eecfca2ab87c1945afe126590906"  # as GroupLens publish it beside the archive
TERMS = f"{SITE}/ml-1m-README.txt"


def fetch(name: str, *, accepted: bool, data_path: str = "dataset", site: str = SITE, md5: str = MD5) -> dict[str, Any]:
    """Write `data_path/ml-1m` from GroupLens' archive: ml-1m.inter, .user and .item, all of them or nothing.

    What was fetched of the archive stays as `data_path/ml-1m.zip` until the files are written, so that a later call
    goes on with it. ml-100k needs no fetching: it ships with RecBole.

    Args:
        name: `ml-1m`.
        accepted: whether the user has read GroupLens' terms and accepts them.
        data_path: the folder of data sets, RecBole's option of that name.
        site, md5: where the archive is, and its digest.

    Returns:
        the new folder as `folder`; the numbers of `ratings`, `users` and `movies`.

    Raises:
        InputError: for another name, terms that were not accepted, a folder that is there already, a site that cannot
            be reached, or an archive that is not the published one.
    """
    if name != NAME:
        raise InputError(f"fetch: '{name}' cannot be fetched, {NAME} can; ml-100k ships with RecBole. Name {NAME}.")
    home = Path(data_path, name).expanduser()
    if home.exists():
        raise InputError(f"fetch: '{home}' is there already. Nothing is overwritten: name another --data_path.")
    if not accepted:
        raise InputError(
            f"fetch: GroupLens' terms for {name} ({TERMS}) forbid to hand it on, and commercial use. Read them, and "
            "type --accept_terms if you agree."
        )
    archive = home.with_name(f"{name}.zip")
    download(f"{site}/{name}.zip", archive)
    check(archive, md5)
    with zipfile.ZipFile(archive) as opened:
        files = {f"{name}.{kind}": rows for kind, rows in tables(opened).items()}
    write(home, files, command="fetch")
    archive.unlink()
    counts = dict(zip(("ratings", "users", "movies"), (len(rows) - 1 for rows in files.values())))
    return {"folder": str(home), **counts}


def download(address: str, file: Path) -> None:
    """Fetch a file, on from where an earlier call ended, and show how far it is.

    Raises:
        InputError: if the site cannot be reached, or ends early.
    """
    begun = file.stat().st_size if file.exists() else 0
    request = urllib.request.Request(address, headers={"Range": f"bytes={begun}-"} if begun else {})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            begun = begun if answer.status == http.HTTPStatus.PARTIAL_CONTENT else 0  # else it is sent from its start
            whole = begun + int(answer.headers.get("Content-Length", 0))
            bar = tqdm(desc=file.name, total=whole or None, initial=begun, unit="B", unit_scale=True)
            file.parent.mkdir(parents=True, exist_ok=True)
            with open(file, "ab" if begun else "wb") as target, bar:
                while part := answer.read(2**16):
                    target.write(part)
                    bar.update(len(part))
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:  # it is there
            return
        raise unreachable(address, file, f"{error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        raise unreachable(address, file, str(getattr(error, "reason", error))) from error
    if file.stat().st_size < whole:
        raise unreachable(address, file, f"it ended after {file.stat().st_size} of {whole} bytes")


def unreachable(address: str, file: Path, reason: str) -> InputError:
    """Return the error for an archive that did not come."""
    return InputError(
        f"fetch: cannot get {address}: {reason}. The same command goes on where it ended, or fetch {SITE}/{NAME}.zip "
        f"by other means and put it into '{file.parent}'."
    )


def check(archive: Path, md5: str) -> None:
    """Remove an archive that is not the published one, and raise InputError."""
    found = hashlib.md5(archive.read_bytes(), usedforsecurity=False).hexdigest()
    if found != md5:
        archive.unlink()
        raise InputError(
            f"fetch: the archive's MD5 is {found}, and the published one {md5}: it is damaged or another. It was "
            "removed; type the same command again."
        )


def tables(archive: zipfile.ZipFile) -> dict[str, list[Row]]:
    """Return kind of file -> header and rows, as RecBole's own files of ml-1m have them."""
    users = [(user, age, gender, *rest) for user, gender, age, *rest in lines(archive, "users.dat")]
    return {
        "inter": [
            ("user_id:token", "item_id:token", "rating:float", "timestamp:float"),
            *lines(archive, "ratings.dat"),
        ],
        "user": [("user_id:token", "age:token", "gender:token", "occupation:token", "zip_code:token"), *users],
        "item": [
            ("item_id:token", "movie_title:token_seq", "release_year:token", "genre:token_seq"),
            *(movie(*line) for line in lines(archive, "movies.dat")),
        ],
    }


def lines(archive: zipfile.ZipFile, name: str) -> Iterator[Row]:
    """Yield the fields of the lines of a file of the archive."""
    for line in archive.read(f"{NAME}/{name}").decode("latin-1").splitlines():
        yield tuple(line.split("::"))


def movie(number: str, title: str, genres: str) -> Row:
    """Return the row of a movie, whose title ends with its year in brackets."""
    name, _, year = title.rpartition(" (")
    return number, name, year.rstrip(")"), genres.replace("|", " ")
