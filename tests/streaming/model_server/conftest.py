from tests.conformance.conftest import models

__all__ = ["models"]
