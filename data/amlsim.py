"""Folders of IBM's AMLSim: bank transfers with planted laundering, and labels that say when they are known."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fulgurite.data.number_table import first_line, line_of_row, parse_columns, read_bytes

_TRANSACTIONS = ("sourceNodeId", "targetNodeId", "value", "time")
_NODES = ("nodeid", "isFraud", "init_balance", "fraudStep")
_TOTALS = re.compile(r"(nodes|transactions):\s*([\d,]+)")


@dataclass(frozen=True, eq=False)
class AMLSim:
    """Transfers between accounts, in order of time.

    Attributes:
        source: (E,) paying account, 0 … N − 1.
        target: (E,) paid account.
        time: (E,) int64 step, from 1.
        amount: (E,) float64.
        fraud: (N,) bool: the account belongs to a planted cycle, at whatever time.
        fraud_step: (N,) int64: the step at which it sends the cycle's money on; −1 where it does not.
    """

    source: NDArray[np.int64]
    target: NDArray[np.int64]
    time: NDArray[np.int64]
    amount: NDArray[np.float64]
    fraud: NDArray[np.bool_]
    fraud_step: NDArray[np.int64]

    @property
    def num_nodes(self) -> int:
        """N."""
        return len(self.fraud)

    @property
    def laundering(self) -> NDArray[np.bool_]:
        """(E,) whether a transfer is a hop of a cycle: a fraud account pays another at the payer's ``fraud_step``.

        The files have no such column. A payer's ordinary transfers of that step go to ordinary accounts (35 of 1,891
        in the sample of 20,000 accounts), and are left out by asking for both ends.
        """
        return (self.fraud_step[self.source] == self.time) & self.fraud[self.source] & self.fraud[self.target]


def read_amlsim(folder: str | Path, *, num_steps: int | None = None) -> AMLSim:
    r"""Read ``transactions.csv`` and ``nodes.csv``; the totals of ``metadata.txt`` are compared where it is there.

    The format is that of AMLSim's sample data (https://github.com/IBM/AMLSim; T. Suzumura, H. Kanezashi).

    Args:
        folder: with ``transactions.csv`` (``sourceNodeId,targetNodeId,value,time``, sorted by time) and ``nodes.csv``
            (``nodeid,isFraud,init_balance,fraudStep``, ids 0 … N − 1).
        num_steps: the latest step that there can be; later ones are refused.

    Raises:
        ValueError: a file that is missing or empty, other columns, an account that ``nodes.csv`` does not have, or has
            twice, amounts that are not above 0, steps out of order or later than ``num_steps``, totals other than those
            of ``metadata.txt``; with the line.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as name:
        ...     folder = Path(name)
        ...     _ = (folder / "nodes.csv").write_text(
        ...         "nodeid,isFraud,init_balance,fraudStep\n0,1,184.44,2\n1,1,175.80,-1\n2,0,9,-1\n")
        ...     _ = (folder / "transactions.csv").write_text(
        ...         "sourceNodeId,targetNodeId,value,time\n2,0,147.8,1\n0,1,11.5,2\n0,2,119.9,2\n")
        ...     data = read_amlsim(folder)
        >>> data.num_nodes, data.laundering.tolist()
        (3, [False, True, False])
    """
    folder = Path(folder)
    nodes = _Table(folder / "nodes.csv", _NODES, ("whole", "whole", "real", "whole"))
    number, is_fraud, _, fraud_step = nodes.columns
    count = len(number)
    nodes.refuse((number < 0) | (number >= count), 0, f"ids 0 … {count - 1}, one for each of the {count} lines")
    seen = np.zeros(count, dtype=bool)
    seen[number] = True
    if not seen.all():
        # As many lines as ids: where one is missing another stands twice.
        _, firsts = np.unique(number, return_index=True)
        again = np.ones(count, dtype=bool)
        again[firsts] = False
        nodes.refuse(again, 0, "each id once")
    nodes.refuse((is_fraud != 0) & (is_fraud != 1), 1, "0 or 1")
    nodes.refuse(fraud_step < -1, 3, "a step, or -1 for none")
    table = _Table(folder / "transactions.csv", _TRANSACTIONS, ("whole", "whole", "real", "whole"))
    source, target, amount, time = table.columns
    for column, ends in enumerate((source, target)):
        table.refuse((ends < 0) | (ends >= count), column, f"an account of nodes.csv, 0 … {count - 1}")
    table.refuse(~(amount > 0) | ~np.isfinite(amount), 2, "an amount above 0")
    table.refuse(time < 0, 3, "a step, 0 or later")
    table.refuse(np.diff(time, prepend=0) < 0, 3, "steps in ascending order; sort the file by time")
    if num_steps is not None:
        table.refuse(time > num_steps, 3, f"{num_steps} or earlier (num_steps)")
    _compare_totals(folder / "metadata.txt", {"nodes": count, "transactions": len(time)})
    fraud, step = np.zeros(count, dtype=bool), np.full(count, -1)
    fraud[number], step[number] = is_fraud == 1, fraud_step
    return AMLSim(source, target, time, amount, fraud, step)


class _Table:
    """A CSV file with given column names, and complaints about its rows."""

    def __init__(self, path: Path, names: tuple[str, ...], kinds: tuple[str, ...]) -> None:
        self.path, self.names = path, names
        self._data = read_bytes(path)
        number, line = first_line(self._data)
        found = tuple(name.strip() for name in line.split(","))
        if found != names:
            raise ValueError(f"{path}, line {number}: got columns {line[:80]!r}; expected {','.join(names)}")
        self.columns = parse_columns(self._data, kinds, delimiter=",", header=True, where=str(path))  # type: ignore[arg-type]
        if not len(self.columns[0]):
            raise ValueError(f"{path} has a header and no lines; expected one entry a line")

    def refuse(self, bad: NDArray[np.bool_], column: int, expected: str) -> None:
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            line = line_of_row(self._data, row, header=True)
            value = self.columns[column][row]
            raise ValueError(f"{self.path}, line {line}: got {self.names[column]} {value}; expected {expected}")


def _compare_totals(path: Path, got: dict[str, int]) -> None:
    if not path.is_file():
        return
    for what, total in _TOTALS.findall(path.read_text(encoding="utf-8", errors="replace")):
        if int(total.replace(",", "")) != got[what]:
            raise ValueError(f"{path} says {total} {what}; the files have {got[what]:,}: one of them is not whole")
