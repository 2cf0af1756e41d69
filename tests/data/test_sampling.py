"""Any draw takes as many as there are, and spreads them as asked."""

from hypothesis import given, settings
from hypothesis import strategies as st

from emor3_trl.data.sampling import Draw, Sampling
from emor3_trl.data.sources.candidates import Candidate


@given(
    sizes=st.lists(st.integers(0, 12), min_size=1, max_size=5),
    size=st.integers(1, 40),
    refused=st.sets(st.integers(0, 60)),
    method=st.sampled_from(["stratified", "natural"]),
    seed=st.integers(0, 5),
)
@settings(deadline=None)
def test_any_draw_takes_as_many_as_there_are_and_spreads_them(sizes, size, refused, method, seed):
    pool = [Candidate(f"{label}-{n}", "", f"l{label}") for label, count in enumerate(sizes) for n in range(count)]
    good = [one for number, one in enumerate(pool) if number not in refused]
    draw_ = Draw(pool, size, Sampling(method=method, seed=seed))
    accepted = []
    for wave in draw_.waves():
        for one in wave:
            if one in good:
                draw_.accept(one)
                accepted.append(one)
    assert len(accepted) == min(size, len(good))
    assert len(set(accepted)) == len(accepted)
    if method == "stratified":
        counts = {label: sum(one.emotion == label for one in accepted) for label in {one.emotion for one in good}}
        offered = {label: sum(one.emotion == label for one in good) for label in counts}
        unfilled = [counts[label] for label in counts if counts[label] < offered[label]]
        if unfilled:  # no emotion has more than one beyond what another one, which could have more, got
            assert max(counts.values()) <= min(unfilled) + 1


def test_a_natural_draw_keeps_the_frequencies_of_the_source():
    pool = [Candidate(str(n), "", "joy" if n % 10 else "fear") for n in range(2000)]
    draw_ = Draw(pool, 500, Sampling(method="natural"))
    wave = next(draw_.waves())
    assert 25 <= sum(one.emotion == "fear" for one in wave) <= 80
