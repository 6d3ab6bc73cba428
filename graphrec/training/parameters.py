"""Which parameters of a model are embedding tables, and the rates of plain gradient descent on each."""

from torch import nn


def embedding_tables(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the weights of all embedding layers by their names in ``model.named_parameters()``.

    Everything else is a dense weight. A table that several layers share is there once.
    """
    layers = (nn.Embedding, nn.EmbeddingBag)
    tables = {id(module.weight) for module in model.modules() if isinstance(module, layers)}
    return {name: parameter for name, parameter in model.named_parameters() if id(parameter) in tables}


def descent_rates(
    model: nn.Module, *, learning_rate: float, embedding_learning_rate: float
) -> dict[str, float]:
    """Return the rate of each parameter by name, in the order of ``model.parameters()``.

    The mean loss of a period reaches a row of a table through a few impressions only, so tables take a far
    larger rate than dense weights to move at all.
    """
    tables = embedding_tables(model)
    return {
        name: embedding_learning_rate if name in tables else learning_rate
        for name, _ in model.named_parameters()
    }
