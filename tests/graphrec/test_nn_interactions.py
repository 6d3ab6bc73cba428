"""FM, NFM, AutoInt and DIN's layers: numbers by hand, slow loops over the formulas, an outside library."""

import math

import pytest
import torch

from graphrec.nn import (
    FM,
    NFM,
    ActivationUnit,
    AutoInt,
    DeepFM,
    InteractingLayer,
    bi_interaction_pooling,
    second_order_interactions,
)

N, F, C, D, L = 4, 5, 6, 3, 7  # rows, fields, channels, dense features, behaviours


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def randomized(module, seed=1):
    """The module in float64 with all weights of order one, biases included."""
    module = module.double().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return module


def mlp_by_hand(mlp, x):
    """ReLU layers and a linear output, from the weights."""
    linears = [layer for layer in mlp if isinstance(layer, torch.nn.Linear)]
    for layer in linears[:-1]:
        x = (layer.weight @ x + layer.bias).clamp(min=0)
    return (linears[-1].weight @ x + linears[-1].bias)[0]


# ---- FM and NFM ----------------------------------------------------------------------------------


def test_pooling_on_numbers_by_hand():
    fields = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [5.0, -1.0]]])
    # channel 0: 1*3 + 1*5 + 3*5; channel 1: 2*4 - 2*1 - 4*1
    assert bi_interaction_pooling(fields).tolist() == [[23.0, 2.0]]
    assert second_order_interactions(fields).tolist() == [25.0]
    # a dense feature of value 2 with the vector (1, 3) is a fourth field (2, 6)
    dense, vectors = torch.tensor([[2.0]]), torch.tensor([[1.0, 3.0]])
    assert bi_interaction_pooling(fields, dense, vectors).tolist() == [[23 + 2 * 9.0, 2 + 6 * 5.0]]


def slow_pooling(fields, dense, vectors):
    all_fields = [*fields, *(z * v for z, v in zip(dense, vectors, strict=True))]
    pooled = torch.zeros(C).double()
    for i, left in enumerate(all_fields):
        for right in all_fields[i + 1 :]:
            pooled += left * right
    return pooled


@pytest.mark.parametrize("num_dense", [0, D])
def test_fm_equals_the_sum_over_pairs(num_dense):
    fm = randomized(FM(C, dense_channels=num_dense))
    fields, linear, dense = draw(N, F, C), draw(N, seed=1), draw(N, num_dense, seed=2)
    out = fm(fields, linear, dense)
    for row in range(N):
        pairs = slow_pooling(fields[row], dense[row], fm.dense_vectors).sum()
        first = fm.bias + linear[row] + sum(z * w for z, w in zip(dense[row], fm.dense_weight, strict=True))
        torch.testing.assert_close(out[row], first + pairs)


@pytest.mark.parametrize("num_dense", [0, D])
def test_nfm_equals_its_equation(num_dense):
    nfm = randomized(NFM(C, dense_channels=num_dense, hidden_channels=(11, 8), dropout=0.5))
    fields, linear, dense = draw(N, F, C), draw(N, seed=1), draw(N, num_dense, seed=2)
    out = nfm(fields, linear, dense)
    for row in range(N):
        deep = mlp_by_hand(nfm.mlp, slow_pooling(fields[row], dense[row], nfm.dense_vectors))
        first = linear[row] + sum(z * w for z, w in zip(dense[row], nfm.dense_weight, strict=True))
        torch.testing.assert_close(out[row], first + deep)


def test_nfm_without_hidden_layer_is_fm():
    """Section 3.2 of the NFM paper."""
    nfm, fm = NFM(C, dense_channels=D, hidden_channels=()).double(), randomized(FM(C, dense_channels=D))
    with torch.no_grad():
        nfm.mlp[-1].weight.fill_(1)
        nfm.mlp[-1].bias.fill_(fm.bias)
        nfm.dense_vectors.copy_(fm.dense_vectors)
        nfm.dense_weight.copy_(fm.dense_weight)
    inputs = draw(N, F, C), draw(N, seed=1), draw(N, D, seed=2)
    torch.testing.assert_close(nfm(*inputs), fm(*inputs))


def test_dropout_acts_in_training_only():
    for module in (FM(C, dropout=0.5), NFM(C, dropout=0.5)):
        module = module.double()
        with torch.no_grad():
            for parameter in module.parameters():
                parameter += 1
        inputs = draw(N, F, C), draw(N, seed=1), torch.zeros(N, 0).double()
        assert not torch.equal(module.train()(*inputs), module(*inputs))
        assert torch.equal(module.eval()(*inputs), module(*inputs))


# ---- AutoInt -------------------------------------------------------------------------------------


def test_interacting_layer_on_numbers_by_hand():
    layer = InteractingLayer(1, 1, num_heads=1)
    with torch.no_grad():
        layer.lin_query.weight.fill_(1)
        layer.lin_key.weight.fill_(math.log(2))
        layer.lin_value.weight.fill_(3)
        layer.lin_residual.weight.fill_(-1)
    # field 0 of value 1 sees keys log 2 and 0: weights 2/3 and 1/3 of the values 3 and 0
    # field 1 of value 0 sees even weights
    out = layer(torch.tensor([[[1.0], [0.0]]]))
    assert out.flatten().tolist() == pytest.approx([2.0 - 1.0, 1.5])
    assert layer(torch.tensor([[[0.0], [-1.0]]])).flatten().tolist() == pytest.approx([0.0, 0.0])  # ReLU


def slow_interaction(layer, fields):
    width = layer.out_channels
    out = []
    for query_field in fields:
        heads = []
        for head in range(layer.num_heads):
            part = slice(head * width, (head + 1) * width)
            query = layer.lin_query.weight[part] @ query_field
            logits = torch.stack([query @ (layer.lin_key.weight[part] @ other) for other in fields])
            weight = logits.exp() / logits.exp().sum()
            heads.append(
                sum(w * (layer.lin_value.weight[part] @ e) for w, e in zip(weight, fields, strict=True))
            )
        out.append((torch.cat(heads) + layer.lin_residual.weight @ query_field).clamp(min=0))
    return torch.stack(out)


def test_interacting_layer_equals_equations_5_to_8():
    layer = randomized(InteractingLayer(C, 4, num_heads=3))
    fields = 0.3 * draw(N, F, C)
    out = layer(fields)
    assert out.shape == (N, F, 12)
    for row in range(N):
        torch.testing.assert_close(out[row], slow_interaction(layer, fields[row]))


@pytest.mark.parametrize("hidden", [(), (9,)])
def test_autoint_equals_its_equation(hidden):
    options = {"num_layers": 2, "num_heads": 3, "attention_channels": 2, "hidden_channels": hidden}
    model = AutoInt(F, C, dense_channels=D, **options).double()
    with torch.no_grad():
        model.dense_weight.copy_(draw(D, seed=5))
    fields, linear, dense = draw(N, F, C), draw(N, seed=1), draw(N, D, seed=2)
    out = model(fields, linear, dense)
    assert (model.mlp is None) == (not hidden)
    for row in range(N):
        x = fields[row]
        for layer in model.layers:
            x = slow_interaction(layer, x)
        expected = model.output.weight[0] @ x.flatten() + model.output.bias[0]
        expected = expected + linear[row] + dense[row] @ model.dense_weight
        if hidden:
            expected = expected + mlp_by_hand(model.mlp, torch.cat([fields[row].flatten(), dense[row]]))
        torch.testing.assert_close(out[row], expected)


# ---- DIN -----------------------------------------------------------------------------------------


def test_activation_unit_on_numbers_by_hand():
    unit = ActivationUnit(1, hidden_channels=(1,))
    with torch.no_grad():
        unit.mlp[0].weight.copy_(torch.tensor([[1.0, 10.0, 100.0, 1000.0]]))
        unit.mlp[0].bias.fill_(5)
        unit.mlp[1].weight.fill_(0.5)
        unit.mlp[2].weight.fill_(2)
        unit.mlp[2].bias.fill_(-1)
    target, behavior = torch.tensor([[2.0]]), torch.tensor([[[3.0], [-1.0], [8.0]]])
    mask, age = torch.tensor([[True, True, False]]), torch.zeros(1, 3)
    # 2 + 30 - 100 + 6000 + 5 = 5937; 2 - 10 + 300 - 2000 + 5 = -1703, which PReLU halves
    weights = unit.weights(target, behavior, mask, age)
    assert weights.tolist() == [[2 * 5937.0 - 1, -1703.0 - 1, 0.0]]
    assert unit(target, behavior, mask, age).tolist() == [[3 * 11873.0 + 1704.0]]


@pytest.mark.parametrize("read_age", [False, True])
def test_activation_unit_equals_its_equation(read_age):
    unit = randomized(ActivationUnit(C, hidden_channels=(9, 4), read_age=read_age))
    target, behavior, age = draw(N, C), draw(N, L, C, seed=1), draw(N, L, seed=2)
    length = torch.tensor([L, 3, 1, 0])
    mask = torch.arange(L) < length[:, None]
    out = unit(target, behavior, mask, age)
    linears = [layer for layer in unit.mlp if isinstance(layer, torch.nn.Linear)]
    slopes = [layer.weight for layer in unit.mlp if isinstance(layer, torch.nn.PReLU)]
    for row in range(N):
        expected = torch.zeros(C).double()
        for e, a in list(zip(behavior[row], age[row], strict=True))[: length[row]]:
            t = target[row]
            x = torch.cat([t, e, t - e, t * e, *([a[None]] if read_age else [])])
            for layer, slope in zip(linears, slopes, strict=False):
                x = layer.weight @ x + layer.bias
                x = torch.where(x > 0, x, slope * x)
            expected += (linears[-1].weight @ x + linears[-1].bias) * e
        torch.testing.assert_close(out[row], expected)
    assert out[3].eq(0).all()
    noise = behavior.where(mask[..., None], 1e6)
    torch.testing.assert_close(unit(target, noise, mask, age.where(mask, 99.0)), out)
    turned = unit(target, behavior.flip(1), mask.flip(1), age.flip(1))
    torch.testing.assert_close(turned, out)


def test_a_wrong_shape_is_told():
    unit = ActivationUnit(C)
    with pytest.raises(Exception, match="length"):
        unit(torch.zeros(N, C), torch.zeros(N, L, C), torch.ones(N, L + 1).bool(), torch.zeros(N, L))


# ---- an outside implementation -------------------------------------------------------------------


def outside(name):
    """A module of deepctr-torch (0.3.0), which is no dependency: these tests run where it is installed."""
    return pytest.importorskip(f"deepctr_torch.{name}", reason="compares with deepctr-torch if installed")


def test_fm_and_pooling_equal_deepctr():
    interaction = outside("layers.interaction")
    fields = draw(N, F, C)
    torch.testing.assert_close(
        bi_interaction_pooling(fields), interaction.BiInteractionPooling()(fields)[:, 0]
    )
    fm = FM(C).double()
    zero = torch.zeros(N).double()
    out = fm(fields, zero, torch.zeros(N, 0).double())
    torch.testing.assert_close(out, interaction.FM()(fields)[:, 0])


def test_interacting_layer_equals_deepctr():
    interaction = outside("layers.interaction")
    for num_heads in (1, 2, 3):
        theirs = interaction.InteractingLayer(C, head_num=num_heads, use_res=True).double()
        ours = InteractingLayer(C, C // num_heads, num_heads=num_heads).double()
        pairs = {"W_Query": "query", "W_key": "key", "W_Value": "value", "W_Res": "residual"}
        with torch.no_grad():
            for their_name, our_name in pairs.items():
                weight = draw(C, C, seed=len(their_name) + num_heads)
                getattr(theirs, their_name).copy_(weight.T)
                getattr(ours, f"lin_{our_name}").weight.copy_(weight)
        fields = 0.5 * draw(N, F, C)
        torch.testing.assert_close(ours(fields), theirs(fields))


def test_activation_unit_equals_deepctr():
    sequence = outside("layers.sequence")
    theirs = sequence.AttentionSequencePoolingLayer(
        att_hidden_units=(9, 4), att_activation="prelu", weight_normalization=False, embedding_dim=C
    ).double()
    ours = randomized(ActivationUnit(C, hidden_channels=(9, 4)))
    unit = theirs.local_att
    mine = [layer for layer in ours.mlp if isinstance(layer, torch.nn.Linear)]
    others = [*unit.dnn.linears, unit.dense]
    with torch.no_grad():
        for their_layer, our_layer in zip(others, mine, strict=True):
            their_layer.weight.copy_(our_layer.weight)
            their_layer.bias.copy_(our_layer.bias)
        our_slopes = [layer for layer in ours.mlp if isinstance(layer, torch.nn.PReLU)]
        for their_slope, our_slope in zip(unit.dnn.activation_layers, our_slopes, strict=True):
            their_slope.weight.copy_(our_slope.weight)
    target, behavior, length = draw(N, C), draw(N, L, C, seed=1), torch.tensor([L, 3, 1, 0])
    mask = torch.arange(L) < length[:, None]
    out = ours(target, behavior, mask, torch.zeros(N, L).double())
    expected = theirs(target[:, None], behavior, length[:, None])[:, 0]
    torch.testing.assert_close(out, expected)
    assert expected.abs().sum() > 1


def deepctr_fields(names):
    inputs = outside("inputs")
    return [inputs.SparseFeat(name, vocabulary_size=8, embedding_dim=C) for name in names]


def ours_from(theirs, codes, dense):
    """Field vectors and first-order terms that the outside model looks up."""
    fields = torch.stack([theirs.embedding_dict[f"f{i}"](codes[:, i]) for i in range(codes.shape[1])], dim=1)
    linear = sum(
        theirs.linear_model.embedding_dict[f"f{i}"](codes[:, i])[:, 0] for i in range(codes.shape[1])
    )
    return fields, linear + (dense @ theirs.linear_model.weight)[:, 0] + theirs.out.bias[0]


def copy_linears(theirs, ours):
    with torch.no_grad():
        for their_layer, our_layer in zip(theirs, ours, strict=True):
            our_layer.weight.copy_(their_layer.weight)
            our_layer.bias.copy_(their_layer.bias)


@pytest.mark.parametrize("name", ["DeepFM", "AutoInt", "NFM"])
def test_whole_models_equal_deepctr(name):
    """Click probabilities with the same weights; NFM is compared without dense features.

    Theirs does not multiply them; their first-order term comes in with that of the fields.
    """
    inputs, models = outside("inputs"), outside("models")
    columns = deepctr_fields([f"f{i}" for i in range(F)])
    columns += [inputs.DenseFeat(f"d{i}", 1) for i in range(D)]
    sparse = columns[:F]
    used = sparse if name == "NFM" else columns
    options = {"dnn_hidden_units": (9, 7), "init_std": 0.5}
    if name == "AutoInt":
        options |= {"att_layer_num": 2, "att_head_num": 2}
    theirs = getattr(models, name)(columns, used, **options).double().eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in theirs.parameters():
            shape = parameter.shape
            parameter.copy_(0.5 * torch.randn(shape, generator=generator, dtype=torch.float64))
    codes = torch.randint(0, 8, (N, F), generator=generator)
    dense = draw(N, D, seed=2)
    expected = theirs(torch.cat([codes.double(), dense], dim=1))[:, 0]
    fields, linear = ours_from(theirs, codes, dense)
    kept = dense[:, :0] if name == "NFM" else dense
    if name == "DeepFM":
        ours = DeepFM(F, C, dense_channels=D, hidden_channels=(9, 7)).double()
    elif name == "NFM":
        ours = NFM(C, hidden_channels=(9, 7)).double()
    else:
        ours = AutoInt(
            F,
            C,
            dense_channels=D,
            num_layers=2,
            num_heads=2,
            attention_channels=C // 2,
            hidden_channels=(9, 7),
        ).double()
    linears = [layer for layer in ours.mlp if isinstance(layer, torch.nn.Linear)]
    copy_linears(theirs.dnn.linears, linears[:-1])
    with torch.no_grad():
        linears[-1].bias.zero_()
        if name == "AutoInt":
            width = F * C
            ours.output.weight.copy_(theirs.dnn_linear.weight[:, :width])
            ours.output.bias.zero_()
            linears[-1].weight.copy_(theirs.dnn_linear.weight[:, width:])
            for their_layer, our_layer in zip(theirs.int_layers, ours.layers, strict=True):
                our_layer.lin_query.weight.copy_(their_layer.W_Query.T)
                our_layer.lin_key.weight.copy_(their_layer.W_key.T)
                our_layer.lin_value.weight.copy_(their_layer.W_Value.T)
                our_layer.lin_residual.weight.copy_(their_layer.W_Res.T)
        else:
            linears[-1].weight.copy_(theirs.dnn_linear.weight)
    torch.testing.assert_close(torch.sigmoid(ours(fields, linear, kept)), expected)
    assert expected.std() > 0.01
