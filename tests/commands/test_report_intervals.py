"""Remarks on intervals propose a pattern of groups only if no groups are known."""

from atrous.commands._report_intervals import cautions


def test_no_pattern_is_proposed_for_known_places():
    names = [
        f"{city}_2020_{top:05d}_{left:05d}" for city in ("berlin", "potsdam") for top in (0, 64) for left in (0, 64)
    ]
    known = [{"name": name, "group": f"{name}@0-0"} for name in names]
    assert not any("--groups" in remark for remark in cautions(known, len(known)))
    unknown = [{"name": name, "group": None} for name in names]
    assert any("measure with --groups '" in remark for remark in cautions(unknown, len(unknown)))
