"""DGL beside this torch: that it imports, and that our layer and samplers agree with its own."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graphrec.nn import GATConv
from samplers import RecentNeighborSampler, TemporalCSR, UniformNeighborSampler
from samplers.adapters import dgl as adapter
from samplers.adapters import import_dgl

pytest.importorskip("pandas")  # DGL needs it without saying so
if importlib.util.find_spec("dgl") is None:
    pytest.skip("DGL is not installed: it is the extra [dgl]", allow_module_level=True)

NUM_USERS, NUM_ITEMS = 4, 7


def run_python(code, **environment):
    """Run code in a fresh interpreter: what is imported here already would hide failures."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        env=os.environ | environment,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_of_samplers_imports_no_dgl():
    assert run_python("import samplers, samplers.adapters, sys; print('dgl' in sys.modules)") == "False\n"


def test_import_leaves_home_and_environment_alone(tmp_path):
    out = run_python(
        "import os; from samplers.adapters import import_dgl\n"
        "dgl = import_dgl(); assert import_dgl() is dgl; import dgl.nn\n"
        "print('DGLBACKEND' in os.environ, dgl.backend.backend_name)",
        HOME=str(tmp_path),
    )
    assert out == "False pytorch\n"
    assert not list(tmp_path.rglob("config.json"))


def test_a_plain_import_that_failed_does_no_harm():
    out = run_python(
        "try:\n    import dgl\nexcept (ImportError, FileNotFoundError):\n    pass\n"
        "from samplers.adapters import import_dgl\n"
        "print(import_dgl().graph(([0, 1], [1, 2])).num_nodes())",
        DGLBACKEND="pytorch",
    )
    assert out == "3\n"


def test_stub_goes_away_when_the_import_fails(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "dgl"]:
        monkeypatch.delitem(sys.modules, name)

    def fail(name):
        assert isinstance(sys.modules["dgl.graphbolt"], adapter._GraphboltStub)
        raise OSError(f"no {name}")

    monkeypatch.setattr(adapter.importlib, "import_module", fail)
    monkeypatch.setattr(adapter, "graphbolt_library", lambda package: package / "missing.so")
    with pytest.raises(OSError, match="no dgl"):
        import_dgl()
    assert "dgl.graphbolt" not in sys.modules


def test_no_stub_where_the_library_is_there(monkeypatch, tmp_path):
    for name in [name for name in sys.modules if name.split(".")[0] == "dgl"]:
        monkeypatch.delitem(sys.modules, name)
    library = tmp_path / "library.so"
    library.touch()
    monkeypatch.setattr(adapter, "graphbolt_library", lambda package: library)
    monkeypatch.setattr(
        adapter.importlib, "import_module", lambda name: sys.modules.get("dgl.graphbolt", name)
    )
    assert import_dgl() == "dgl"


def test_library_path_names_the_version_of_torch(monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.1.0+cpu")
    monkeypatch.setattr(sys, "platform", "linux")
    assert adapter.graphbolt_library(Path("dgl")) == Path("dgl/graphbolt/libgraphbolt_pytorch_2.1.0.so")


def test_missing_dgl_names_the_extra(monkeypatch):
    monkeypatch.delitem(sys.modules, "dgl", raising=False)
    monkeypatch.setattr(adapter.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"graphrec\[dgl\]"):
        import_dgl()


@pytest.mark.skipif(
    adapter.graphbolt_library(Path(importlib.util.find_spec("dgl").submodule_search_locations[0])).exists(),
    reason="this DGL has graphbolt for this torch",
)
def test_stub_says_what_is_missing():
    dgl = import_dgl()
    with pytest.raises(ImportError, match=r"dgl\.graphbolt\.ItemSet needs a graphbolt library"):
        _ = dgl.graphbolt.ItemSet


@pytest.mark.parametrize("num_heads", [1, 3])
def test_gat_equals_dgl_on_a_sampled_block(num_heads):
    dgl = import_dgl()
    generator = torch.Generator().manual_seed(5)
    user = torch.randint(NUM_USERS, (30,), generator=generator)
    item = torch.randint(NUM_ITEMS, (30,), generator=generator)
    user[user == 2] = 1  # user 2 has no neighbour
    csr = TemporalCSR.from_edge_index(
        torch.stack([item, user]), torch.arange(30), num_rows=NUM_USERS, num_cols=NUM_ITEMS, row="destination"
    )
    seed = torch.arange(NUM_USERS)
    sampled = RecentNeighborSampler(csr, 6).sample(seed, torch.full_like(seed, 25))
    assert sampled.mask.any(dim=1).tolist() == [True, True, False, True]
    assert not sampled.mask.all(dim=1).all()

    destination, slot = sampled.mask.nonzero(as_tuple=True)
    block = dgl.create_block(
        (sampled.node[destination, slot], destination), num_src_nodes=NUM_ITEMS, num_dst_nodes=NUM_USERS
    )
    conv = GATConv((5, 3), 2, num_heads=num_heads, empty="zero", activation=None)
    reference = dgl.nn.GATConv((3, 5), 2, num_heads, bias=False, allow_zero_in_degree=True)
    with torch.no_grad():
        reference.fc_src.weight.copy_(conv.lin_source.weight)
        reference.fc_dst.weight.copy_(conv.lin_destination.weight)
        reference.attn_l.copy_(conv.attention_source[None])
        reference.attn_r.copy_(conv.attention_destination[None])
    x = torch.randn(NUM_USERS, 5, generator=generator, requires_grad=True)
    source_x = torch.randn(NUM_ITEMS, 3, generator=generator, requires_grad=True)
    ours = conv(x, source_x, sampled.node, sampled.mask)
    theirs = reference(block, (source_x, x)).flatten(1)
    assert ours[2].eq(0).all()
    assert ours[[0, 1, 3]].ne(0).all()
    torch.testing.assert_close(ours, theirs)
    for mine, other in zip(
        torch.autograd.grad(ours.square().sum(), [x, source_x]),
        torch.autograd.grad(theirs.square().sum(), [x, source_x]),
        strict=True,
    ):
        torch.testing.assert_close(mine, other)


@settings(max_examples=40, deadline=None)
@given(
    edges=st.lists(st.tuples(st.integers(0, NUM_ITEMS - 1), st.integers(0, NUM_USERS - 1)), max_size=14),
    order=st.randoms(use_true_random=False),
    seed_time=st.integers(0, 15),
    num_neighbors=st.integers(1, 3),
)
def test_recent_equals_select_topk_of_the_past(edges, order, seed_time, num_neighbors):
    dgl = import_dgl()
    times = list(range(len(edges)))  # distinct: DGL does not say how ties in time are broken
    order.shuffle(times)
    edge_index = torch.tensor(edges, dtype=torch.int64).reshape(-1, 2).T
    edge_time = torch.tensor(times, dtype=torch.int64)
    csr = TemporalCSR.from_edge_index(
        edge_index, edge_time, num_rows=NUM_USERS, num_cols=NUM_ITEMS, row="destination"
    )
    seed = torch.arange(NUM_USERS)
    sampled = RecentNeighborSampler(csr, num_neighbors).sample(seed, torch.full_like(seed, seed_time))

    past = (edge_time < seed_time).nonzero().flatten()  # DGL has no time of its own: we cut the graph for it
    graph = dgl.heterograph(
        {("item", "by", "user"): tuple(edge_index[:, past])},
        num_nodes_dict={"item": NUM_ITEMS, "user": NUM_USERS},
    )
    graph.edata["time"] = edge_time[past].float()
    top = dgl.sampling.select_topk(graph, num_neighbors, "time", {"user": seed})
    expected = {user: set() for user in range(NUM_USERS)}
    for user, place in zip(top.edges()[1].tolist(), top.edata[dgl.EID].tolist(), strict=True):
        expected[user].add(int(past[place]))
    assert {
        user: set(ids[mask].tolist())
        for user, ids, mask in zip(range(NUM_USERS), sampled.edge_id, sampled.mask, strict=True)
    } == expected


def test_uniform_draws_as_often_as_dgl():
    dgl = import_dgl()
    num_neighbors, num_draws = 2, 3000
    degree = torch.tensor([5, 1, 0, 3])
    user = torch.arange(NUM_USERS).repeat_interleave(degree)
    edge_index = torch.stack([torch.tensor([0, 1, 2, 3, 4, 5, 6, 0, 6]), user])
    csr = TemporalCSR.from_edge_index(
        edge_index,
        torch.zeros(9, dtype=torch.int64),
        num_rows=NUM_USERS,
        num_cols=NUM_ITEMS,
        row="destination",
    )
    seed = torch.arange(NUM_USERS)
    sampler = UniformNeighborSampler(csr, num_neighbors, random_seed=3)
    graph = dgl.heterograph(
        {("item", "by", "user"): tuple(edge_index)}, num_nodes_dict={"item": NUM_ITEMS, "user": NUM_USERS}
    )
    dgl.seed(3)
    ours, theirs = torch.zeros(9), torch.zeros(9)
    for draw in range(num_draws):
        sampled = sampler.sample(seed, torch.ones_like(seed), epoch=draw)
        ours[sampled.edge_id[sampled.mask]] += 1 / num_draws
        drawn = dgl.sampling.sample_neighbors(graph, {"user": seed}, num_neighbors)
        theirs[drawn.edata[dgl.EID]] += 1 / num_draws
    chance = (num_neighbors / degree).clamp(max=1)[user]
    # three standard deviations of a frequency at these draws are 0.027
    torch.testing.assert_close(theirs, chance, atol=0.04, rtol=0)
    torch.testing.assert_close(ours, chance, atol=0.04, rtol=0)
