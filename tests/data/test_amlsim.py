"""AMLSim folders: the real one where it is, a tiny one of the same form, and what is refused."""

from pathlib import Path

import numpy as np
import pytest

from fulgurite.data.amlsim import read_amlsim

NODES = "nodeid,isFraud,init_balance,fraudStep\n0,1,184.44,2\n1,1,175.80,-1\n2,0,142.06,-1\n"
TRANSACTIONS = "sourceNodeId,targetNodeId,value,time\n2,0,147.8,1\n0,1,11.5,2\n0,1,11.5,2\n0,2,119.9,2\n1,0,5,3\n"


def folder(path: Path, *, nodes: str = NODES, transactions: str = TRANSACTIONS, metadata: str | None = None) -> Path:
    (path / "nodes.csv").write_text(nodes)
    (path / "transactions.csv").write_text(transactions)
    if metadata is not None:
        (path / "metadata.txt").write_text(metadata)
    return path


def test_the_real_sample(shared_data: Path) -> None:
    data = read_amlsim(shared_data / "amlsim_20k" / "20K_cycle200", num_steps=149)
    assert (data.num_nodes, len(data.source), int(data.fraud.sum())) == (20_000, 117_805, 945)
    assert (int(data.time.min()), int(data.time.max())) == (1, 149)
    assert int((data.fraud_step[data.source] == data.time).sum()) == 1891
    assert int((data.fraud[data.source] & data.fraud[data.target]).sum()) == 3686
    assert int(data.laundering.sum()) == 1856
    assert np.median(data.amount[data.laundering]) < 20 < np.median(data.amount)


def test_a_tiny_folder_and_its_totals(tmp_path: Path) -> None:
    data = read_amlsim(folder(tmp_path, metadata="nodes: 3 (2 fraud nodes)\ntransactions: 5\n"))
    assert data.laundering.tolist() == [False, True, True, False, False]
    assert data.fraud_step.tolist() == [2, -1, -1]
    assert data.amount.tolist() == [147.8, 11.5, 11.5, 119.9, 5]


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("nodes", "2,0,142.06", "3,0,142.06", "nodes.csv, line 4: got nodeid 3; expected ids 0 … 2"),
        ("nodes", "2,0,142.06", "1,0,142.06", "nodes.csv, line 4: got nodeid 1; expected each id once"),
        ("nodes", "2,0,142.06", "-2,0,142.06", "nodes.csv, line 4: got nodeid -2"),
        ("nodes", "2,0,142.06", "2,5,142.06", "nodes.csv, line 4: got isFraud 5; expected 0 or 1"),
        ("nodes", "175.80,-1", "175.80,-2", "nodes.csv, line 3: got fraudStep -2"),
        ("nodes", "fraudStep", "step", "nodes.csv, line 1: got columns 'nodeid,isFraud,init_balance,step'"),
        ("nodes", NODES[38:], "", "nodes.csv has a header and no lines"),
        ("transactions", TRANSACTIONS, "", "transactions.csv is empty"),
        ("transactions", "0,2,119.9", "0,3,119.9", "transactions.csv, line 5: got targetNodeId 3; expected an account"),
        ("transactions", "0,2,119.9", "-1,2,119.9", "transactions.csv, line 5: got sourceNodeId -1"),
        ("transactions", "0,2,119.9", "0,2,nan", "transactions.csv, line 5: got value nan"),
        ("transactions", "0,2,119.9", "0,2,-1", "transactions.csv, line 5: got value -1.0; expected an amount above 0"),
        (
            "transactions",
            "119.9,2",
            "119.9,1",
            "transactions.csv, line 5: got time 1; expected steps in ascending",
        ),
        ("transactions", "5,3", "5,7", r"transactions.csv, line 6: got time 7; expected 3 or earlier \(num_steps\)"),
        ("transactions", "0,2,119.9,2", "0,2,119.9", "transactions.csv, line 5: got 3 columns; expected 4"),
    ],
)
def test_bad_folders_are_refused_with_the_line(file: str, old: str, new: str, message: str, tmp_path: Path) -> None:
    text = {"nodes": NODES, "transactions": TRANSACTIONS}
    assert old in text[file]
    text[file] = text[file].replace(old, new)
    with pytest.raises(ValueError, match=message):
        read_amlsim(folder(tmp_path, **text), num_steps=3)


def test_a_missing_file_and_totals_that_differ(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nodes.csv: No such file"):
        read_amlsim(tmp_path)
    with pytest.raises(ValueError, match="says 6 transactions; the files have 5"):
        read_amlsim(folder(tmp_path, metadata="nodes: 3\ntransactions: 6\n"))
