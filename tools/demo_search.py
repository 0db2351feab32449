"""Index the Debian Reference in German and Japanese, and search it across languages.

The pages are packages of Debian (4 MB), fetched by apt as it is set up here; nothing is installed.
"""

import shutil
import subprocess
import sys
from pathlib import Path

LANGUAGES = ("de", "ja")
WORK = Path("build/demo-search")
PAGES = WORK / "pages"
QUESTIONS = {
    "ja": "Wie ändere ich das Passwort eines Benutzers?",
    "de": "パスワードを変更するには",
}
"""Questions by the language of the pages that are to answer."""


def fetch() -> None:
    """Unpack the pages, where they are not there yet."""
    if PAGES.is_dir():
        return
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        sys.exit(
            "make demo-search takes its pages from Debian's packages, and there is no apt here. "
            "Index files of your own: polyrank index FOLDER"
        )
    WORK.mkdir(parents=True, exist_ok=True)
    for package in (f"debian-reference-{language}" for language in LANGUAGES):
        if subprocess.run(["apt-get", "download", "-q", package], cwd=WORK).returncode:
            sys.exit(f"apt has no {package}. Run apt-get update, or index files of your own.")
    for archive in WORK.glob("*.deb"):
        subprocess.run(["dpkg-deb", "-x", archive.name, "unpacked"], cwd=WORK, check=True)
    made = WORK / "pages.part"
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir()
    for language in LANGUAGES:
        (made / language).mkdir()
        for page in WORK.glob(f"unpacked/usr/share/debian-reference/ch0[1-4].{language}.html"):
            shutil.copy(page, made / language)
    made.rename(PAGES)


def polyrank(*arguments: str) -> None:
    """Run the command, as it would be typed."""
    sys.stdout.write(f"\n$ polyrank {' '.join(arguments)}\n")
    sys.stdout.flush()
    subprocess.run([sys.executable, "-m", "polyrank", *arguments], check=True)


if __name__ == "__main__":
    fetch()
    for language, question in QUESTIONS.items():
        store = f"sqlite://{WORK}/{language}.db"
        polyrank("index", str(PAGES / language), "--store", store)
        polyrank("search", question, "--store", store, "--top-k", "2")
