import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from samplers import RecentNeighborSampler
from samplers.adapters.recbole import to_interaction
from tests.reference import samplers as reference
from tests.samplers.strategies import MAX_TIME, NUM_DESTINATIONS, NUM_SOURCES, csr_of, queries, tensors

rows = st.tuples(
    st.integers(0, NUM_SOURCES - 1), st.integers(0, NUM_DESTINATIONS - 1), st.integers(0, MAX_TIME)
)
dense_edges = st.lists(rows, min_size=15, max_size=25).map(
    lambda drawn: [reference.Edge(s, d, t, i, t) for i, (s, d, t) in enumerate(drawn)]
)


@settings(max_examples=60)
@given(edges=dense_edges, asked=queries, num_neighbors=st.integers(2, 6))
def test_interaction_equals_a_list_of_lists(edges, asked, num_neighbors):
    sampled = RecentNeighborSampler(csr_of(edges), num_neighbors).sample(*tensors(asked))
    interaction = to_interaction(sampled)
    assert interaction.keys() == {"item_id_list", "item_length"}
    lists = []
    for node, time in asked:
        past = [edge.source + 1 for edge in reference.visible(edges, node, time)][-num_neighbors:]
        lists.append((past + [0] * (num_neighbors - len(past)), len(past)))
    assert interaction["item_id_list"].tolist() == [items for items, _ in lists]
    assert interaction["item_length"].tolist() == [length for _, length in lists]


def test_the_list_is_named_after_the_field_and_the_last_item_is_where_recbole_looks():
    edges = edges_of_one_user()
    sampled = RecentNeighborSampler(csr_of(edges), 4).sample(torch.tensor([2]), torch.tensor([9]))
    interaction = to_interaction(sampled, item_field="video")
    last = interaction["video_list"].gather(1, interaction["item_length"][:, None] - 1)
    assert interaction["video_list"].tolist() == [[4, 2, 1, 0]]
    assert last.item() == sampled.node[0, 0] + 1 == 1


def edges_of_one_user():
    return [reference.Edge(source, 2, time, time, time) for time, source in enumerate([3, 1, 0])]
