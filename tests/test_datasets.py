"""The table of data sets."""

import pytest

from drsformer_cli import datasets
from drsformer_cli.errors import UsageError


def test_names_and_aliases():
    assert datasets.find_dataset("ddn").name == "DDN-Data"
    assert datasets.find_dataset("Rain1400").name == "DDN-Data"
    with pytest.raises(UsageError, match="did you mean Rain200L"):
        datasets.find_dataset("Rain200M")


def test_the_table_says_what_the_paper_says():
    rows = {name: (row.count, row.protocol, row.reported[:1]) for name, row in datasets.DATASETS.items()}
    assert rows["DID-Data"] == (1200, "float-Y", (("DRSformer (paper)", 35.38, 0.9647),))
    assert rows["SPA-Data"] == (1000, "uint8-Y", (("DRSformer (paper)", 48.53, 0.9924),))
    assert {name for name, row in rows.items() if row[1] == "float-Y"} == {"DID-Data", "DDN-Data"}
