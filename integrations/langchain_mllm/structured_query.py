"""Structured queries of LangChain as filters of a memory."""

from __future__ import annotations

from typing import Any, ClassVar

from langchain_core.structured_query import (
    Comparator,
    Comparison,
    Operation,
    Operator,
    StructuredQuery,
    Visitor,
)

_NAMES = {Comparator.CONTAIN: "$contains"}


class HierarchicalMemoryTranslator(Visitor):
    """What a `SelfQueryRetriever` over a memory takes as `structured_query_translator`.

    Dates become ISO 8601 text, as the vector store keeps them.

    Attributes:
        allowed_operators, allowed_comparators: What a filter of the memory can say.
    """

    allowed_operators: ClassVar[tuple[Operator, ...]] = (Operator.AND, Operator.OR, Operator.NOT)
    allowed_comparators: ClassVar[tuple[Comparator, ...]] = tuple(
        one for one in Comparator if one is not Comparator.LIKE
    )

    def visit_operation(self, operation: Operation) -> dict[str, Any]:
        """Returns the filter of a logical operation."""
        self._validate_func(operation.operator)
        parts = [part.accept(self) for part in operation.arguments]
        if operation.operator is Operator.NOT:
            return {"$not": {"$and": parts}}
        return {f"${operation.operator.value}": parts}

    def visit_comparison(self, comparison: Comparison) -> dict[str, Any]:
        """Returns the filter of a comparison."""
        comparator, value = comparison.comparator, _value(comparison.value)
        self._validate_func(comparator)
        if comparator in (Comparator.IN, Comparator.NIN) and not isinstance(value, list):
            value = [value]
        return {comparison.attribute: {_NAMES.get(comparator, f"${comparator.value}"): value}}

    def visit_structured_query(self, structured_query: StructuredQuery) -> tuple[str, dict[str, Any]]:
        """Returns the words to search by, and the search's options."""
        condition = structured_query.filter
        options = {} if condition is None else {"filter": condition.accept(self)}
        return structured_query.query, options


def _value(value: Any) -> Any:
    """A value of the query language, whose dates come with their type."""
    if isinstance(value, dict):
        return value.get(value.get("type"), value)
    return [_value(item) for item in value] if isinstance(value, list | tuple) else value
