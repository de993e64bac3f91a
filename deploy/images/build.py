"""Builds the images with buildah, which needs no daemon, on a base that debootstrap makes, which needs no registry.

Both are Debian packages; root is needed for chroots. Where an engine and a registry are at hand, the Dockerfiles are
built as any others: each says how.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from schemas.errors import LocalStackError

IMAGES = ("streaming", "batch", "model-server")
FILES = Path(__file__).parent
BASE_SUITE = "bookworm"
BASE_PACKAGES = ("python3", "python3-venv", "ca-certificates")
NOT_NEEDED = (
    "var/cache/apt",
    "var/lib/apt/lists",
    "usr/share/doc",
    "usr/share/info",
    "usr/share/locale",
    "usr/share/man",
)
"""Folders of the base whose contents nothing reads when it runs: half of it."""

LENT = (Path("/etc/pip.conf"), Path("/etc/ssl/certs/ca-certificates.crt"))
"""Files of this machine that a build reads in place of its own: where packages come from, and whom pip trusts."""


@dataclass(frozen=True, slots=True)
class Image:
    """One that was built: its name, and its size in bytes, the base included."""

    name: str
    size: int


class Builder:
    """Builds images from a checkout.

    Args:
      checkout: the project's folder, with the wheel in `dist/`.
      folder: where base and images are kept; made if it is not there.
      report: is told, in words, what takes time.
    Raises:
      LocalStackError: a program is missing, or we are not root.
    """

    def __init__(self, checkout: Path, folder: Path, *, report: Callable[[str], None] = lambda _: None) -> None:
        if missing := [program for program in ("buildah", "debootstrap") if shutil.which(program) is None]:
            raise LocalStackError(f"images are built with {' and '.join(missing)}: apt-get install {' '.join(missing)}")
        if os.geteuid() != 0:
            raise LocalStackError("images are built in chroots: expected to run as root")
        self._checkout, self._folder, self._report = checkout, folder, report
        folder.mkdir(parents=True, exist_ok=True)
        storage = [f"--root={folder / 'store'}", f"--runroot={folder / 'run'}", "--storage-driver=vfs"]
        self._buildah = ["buildah", *storage]

    def base(self) -> str:
        """The name of a small Debian with Python, which is made if it is not there."""
        name = f"localhost/tidegauge-base:{BASE_SUITE}"
        if name not in self._sizes():
            self._report(f"making a base of Debian {BASE_SUITE}")
            root = self._folder / "base"
            shutil.rmtree(root, ignore_errors=True)
            self._run(
                ["debootstrap", "--variant=minbase", f"--include={','.join(BASE_PACKAGES)}", BASE_SUITE, str(root)]
            )
            for unread in NOT_NEEDED:
                shutil.rmtree(root / unread)
            (root / "var/lib/apt/lists/partial").mkdir(parents=True)
            container = self._run([*self._buildah, "from", "scratch"]).strip()
            self._run([*self._buildah, "add", "--quiet", container, str(root), "/"])
            self._run([*self._buildah, "commit", "--quiet", "--rm", container, name])
            shutil.rmtree(root)
        return name

    def build(self, image: str, base: str) -> Image:
        """Builds one of `IMAGES`.

        Raises:
          LocalStackError: it cannot be built; the message ends with what buildah said last.
        """
        name = f"localhost/tidegauge-{image}"
        self._report(f"building {name} on {base}")
        lent = [f"--volume={path}:{path}:ro" for path in LENT if path.exists()]
        dockerfile = f"--file={FILES / f'Dockerfile.{image}'}"
        options = ["--isolation=chroot", f"--build-arg=BASE={base}", *lent, dockerfile, f"--tag={name}"]
        self._run([*self._buildah, "build", *options, str(self._checkout)])
        return Image(name, self._sizes()[f"{name}:latest"])

    def command(self, image: Image, *command: str, folders: Mapping[Path, str] | None = None) -> list[str]:
        """A command that runs another one in a new container of an image, as its user, in the machine's network.

        Containers stay until `forget` is called.

        Args:
          image: the image.
          command: what runs in the container; several that are put after what this gives share the container.
          folders: of this machine, and where the container has them.
        """
        container = self._run([*self._buildah, "from", image.name]).strip()
        volumes = [f"--volume={path}:{place}" for path, place in (folders or {}).items()]
        return [*self._buildah, "run", "--isolation=chroot", *volumes, container, "--", *command]

    def forget(self) -> None:
        """Removes all containers; the images stay."""
        self._run([*self._buildah, "rm", "--all"])

    def _sizes(self) -> dict[str, int]:
        """The images that are there, and their sizes in bytes."""
        found = json.loads(self._run([*self._buildah, "images", "--json"])) or []
        return {name: _bytes(entry["size"]) for entry in found for name in entry["names"] or ()}

    def _run(self, command: Sequence[str]) -> str:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            end = "\n".join((done.stdout + done.stderr).splitlines()[-12:])
            raise LocalStackError(f"{' '.join(command[:1])} failed ({done.returncode}):\n{end}")
        return done.stdout


def _bytes(size: str) -> int:
    number, unit = size.split()
    return int(float(number) * {"B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9}[unit.upper()])
