"""`python -m deploy.images`: builds the images for real, and runs each; `make images` makes the wheel first."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from deploy.images.build import IMAGES, Builder
from schemas.errors import LocalStackError

HELP = {
    "streaming": ("tidegauge", "stream", "--help"),
    "batch": ("tidegauge", "train", "--help"),
    "model-server": ("tidegauge-model-server", "--help"),
}


def main() -> int:
    """Builds the images that are named, or all; says how large each is, with its base."""
    parser = argparse.ArgumentParser(prog="python -m deploy.images", description=__doc__)
    parser.add_argument("images", nargs="*", choices=[[], *IMAGES], help="which; all when left out")
    parser.add_argument("--base", help="an image to build on; a Debian made by debootstrap when left out")
    given = parser.parse_args()
    try:
        builder = Builder(Path.cwd(), Path("build/images").absolute(), report=lambda line: print(line, file=sys.stderr))
        base = given.base or builder.base()
        for name in given.images or IMAGES:
            image = builder.build(name, base)
            subprocess.run(builder.command(image, *HELP[name]), check=True, stdout=subprocess.DEVNULL)
            print(f"{image.name}: {image.size / 1e6:.0f} MB, and it runs")
        builder.forget()
    except LocalStackError as exc:
        print(f"tidegauge: {exc}", file=sys.stderr)
        return exc.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
