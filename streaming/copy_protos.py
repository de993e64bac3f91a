"""Copies into an installation the protobuf modules of TensorFlow that the consumer imports, and nothing else of it.

    PYTHONPATH=WHERE_TENSORFLOW_IS python -m streaming.copy_protos SITE_PACKAGES

`streaming.serving_protos` imports them without running TensorFlow's `__init__`. In its place the copy has one that says
what this installation is.
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path

IN_ITS_PLACE = """\
raise ModuleNotFoundError("this installation has only the protobuf modules of TensorFlow", name=__name__)
"""


def copy_protos(site_packages: Path) -> list[Path]:
    """Copies the modules, which are all of TensorFlow that this process has imported: it must be one of its own.

    Returns:
      Their paths, relative to `site_packages`.
    Raises:
      ModuleNotFoundError: TensorFlow or what the consumer needs is not there.
    """
    import streaming.serving_protos  # noqa: F401 - imports what is to be copied

    spec = importlib.util.find_spec("tensorflow")
    if spec is None or spec.submodule_search_locations is None:
        raise ModuleNotFoundError("the protobuf modules are copied out of the package tensorflow")
    root = Path(spec.submodule_search_locations[0]).parent
    copied = []
    for name, module in sorted(sys.modules.items()):
        if name.startswith("tensorflow.") and module.__file__:
            copied.append(Path(module.__file__).relative_to(root))
            (site_packages / copied[-1]).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(module.__file__, site_packages / copied[-1])
    (site_packages / "tensorflow" / "__init__.py").write_text(IN_ITS_PLACE)
    return copied


if __name__ == "__main__":
    print(f"copied {len(copy_protos(Path(sys.argv[1])))} modules of TensorFlow")
