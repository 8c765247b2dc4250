"""The oldest dependencies that settings.ini allows, as constraints for pip: each `name>=1.2` of `requirements` becomes `name==1.2.*`.

    python3.10 -m venv .venv-lowest
    .venv-lowest/bin/pip install -c <(python tests/lowest.py) --editable '.[lessons,test]'
    OMP_NUM_THREADS=1 .venv-lowest/bin/python -m pytest tests -q -n 2
"""
import configparser
from pathlib import Path


def constraints(requirements):
    "One line a dependency; each must name its lowest release."
    pairs = [requirement.split(">=") for requirement in requirements.split()]
    if bare := [pair[0] for pair in pairs if len(pair) != 2]: raise SystemExit(f"settings.ini: without a lowest release: {', '.join(bare)}")
    return [f"{name}=={release}.*" for name, release in pairs]


if __name__ == "__main__":
    settings = configparser.ConfigParser()
    settings.read(Path(__file__).resolve().parent.parent / "settings.ini")
    print("\n".join(constraints(settings["DEFAULT"]["requirements"])))
