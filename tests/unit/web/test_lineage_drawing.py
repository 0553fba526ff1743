from hypothesis import given
from hypothesis import strategies as st

from conjure.runs.inspect.lineage import Edge, RelationKind
from conjure.web.lineage_drawing import HEIGHT, WIDTH, draw


@given(st.lists(st.tuples(st.integers(1, 15), st.integers(1, 15)), max_size=40))
def test_lines_lead_to_the_right_and_boxes_stand_apart(pairs):
    edges = [
        Edge(f"runs/{min(pair)}", f"runs/{max(pair)}", RelationKind.MOUNT, "runs/1", "data") for pair in pairs
    ]
    drawing = draw(edges, ["runs/20"])
    place = {box.name: box for box in drawing.boxes}
    assert len(place) == len(drawing.boxes)
    for edge in edges:
        if edge.source != edge.target:
            assert place[edge.source].x + WIDTH < place[edge.target].x
    for one in drawing.boxes:
        assert 0 <= one.x <= drawing.width - WIDTH
        assert 0 <= one.y <= drawing.height - HEIGHT
        for other in drawing.boxes:
            assert one is other or abs(one.x - other.x) > WIDTH or abs(one.y - other.y) > HEIGHT


def test_a_long_chain_needs_no_recursion():
    edges = [Edge(f"runs/{number}", f"runs/{number + 1}", RelationKind.RERUN) for number in range(1, 3000)]
    assert len(draw(edges).boxes) == 3000


def test_nothing_is_drawn_of_nothing():
    assert draw([]).boxes == []
