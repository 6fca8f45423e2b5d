"""Tables by distance: what scores and contexts take from how far a key stands from its query (Shaw et al. 2018).

A product with a table has a column for each distance, and a score needs one of them: rows that are shifted by one against
each other. Such rows are a view of the product, whose stride is one number short; nothing is gathered.
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass
class Relative:
    """Tables by distance: row ``key - query + max_seqlen - 1``, ``[num_heads or 1, 2 * max_seqlen - 1, head_dim]``.

    Attributes:
        keys: added to the key that a query meets at this distance; None: nothing is added.
        queries: added to the query that a key meets at this distance, but not where it meets one of ``keys``.
        values: added to the value.
    """

    keys: Tensor | None = None
    queries: Tensor | None = None
    values: Tensor | None = None

    def tables(self) -> tuple[Tensor | None, ...]:
        return self.keys, self.queries, self.values


def near(table: Tensor, queries: int, keys: int, first: int = 0) -> Tensor:
    """The rows that ``queries`` and ``keys`` in a row need, ``[heads or 1, queries + keys - 1, head_dim]``.

    ``first``: how far the first key comes after the first query.
    """
    start = (table.shape[1] + 1) // 2 - queries + first
    return table[:, start : start + queries + keys - 1]


def product(x: Tensor, table: Tensor) -> Tensor:
    """``[matrices, rows, a]``, sequence by sequence and head by head, times ``[heads or 1, a, b]``."""
    if len(table) == 1:
        return x @ table[0]
    return (x.view(-1, len(table), *x.shape[1:]) @ table).view(*x.shape[:2], -1)


def by_key(products: Tensor, keys: int) -> Tensor:
    """The view ``[matrices, queries, keys]`` of products of queries with ``near`` rows: what each query has for each key."""
    matrices, queries, columns = products.shape
    return products.as_strided((matrices, queries, keys), (queries * columns, columns - 1, 1), queries - 1)


def by_query(products: Tensor, queries: int) -> Tensor:
    """The view ``[matrices, queries, keys]`` of products of keys with the ``near`` rows in reverse."""
    return by_key(products, queries).transpose(1, 2)
