"""`python -m deploy.capacity`: prints the tables of docs/scale.md, by the shipped costs."""

from __future__ import annotations

from deploy.capacity.costs import load_costs
from deploy.capacity.tables import tables

print("\n\n".join(tables(load_costs())))
