"""Figures and sample grids."""

import numpy as np
import pytest

from fedkr.report import plots
from fedkr.report.plots.style import to_png, to_svg
from fedkr.report.samples import SiteSamples, shown_classes, tile_grid
from fedkr.report.wording import shortened


def test_every_figure_is_drawn_as_svg_and_png(results, samples):
    figures = plots.draw_figures(results, samples)
    assert set(figures) == {
        *("accuracy", "classes", "forest", "plane", "roc", "cost", "site_search", "weights_search"),
        *("samples-site-0", "samples-site-1"),
    }
    for figure in figures.values():
        assert to_png(figure, dpi=30).startswith(b"\x89PNG")
        assert b"<svg" in to_svg(figure)


def test_there_is_no_figure_where_there_is_nothing_to_draw():
    assert plots.draw_figures({"strategies": []}, {}) == {}


def test_the_same_results_give_the_same_svg(results):
    assert to_svg(plots.accuracy_chart(results)) == to_svg(plots.accuracy_chart(results))


def test_many_sites_become_a_heat_map(results):
    results["sites"] = [{"name": f"site-{i}", "counts": {"train": [i, 2, 3]}} for i in range(20)]
    figure = plots.class_histogram(results)
    assert len(figure.axes) == 1
    assert len(figure.axes[0].images) == 1


def test_few_sites_get_a_histogram_each(results):
    assert len(plots.class_histogram(results).axes) == len(results["sites"])


@pytest.mark.parametrize(("channels", "side"), [(1, 8), (3, 8), (1, 100), (3, 100)])
def test_grid_has_a_row_for_each_class_and_white_where_images_are_missing(channels, side):
    images = np.zeros((3, side, side, channels), np.uint8)
    grid = tile_grid(images, np.array([0, 0, 2]), [0, 1, 2], columns=4, tile=24)
    assert grid.shape == (3 * 24, 4 * 24, 3)
    assert grid[10, 10].tolist() == [0, 0, 0]
    assert (grid[24:48] == 255).all()
    assert (grid[48:, 24:] == 255).all()


def test_a_site_without_any_synthetic_image_still_has_a_grid(samples):
    full = samples["site-0"]
    empty = SiteSamples(full.classes, full.real, full.real_labels, full.synthetic[:0], full.synthetic_labels[:0])
    assert to_png(plots.sample_grid(empty), dpi=30).startswith(b"\x89PNG")


def test_grid_shows_held_classes_first_when_there_are_too_many():
    classes = [str(i) for i in range(100)]
    few = SiteSamples(classes, None, None, np.zeros((2, 8, 8, 1), np.uint8), np.array([97, 98]))
    assert shown_classes(few, 5) == [0, 1, 2, 97, 98]


def test_long_names_are_cut():
    assert shortened("a" * 30, 12) == "a" * 11 + "…"
    assert shortened("$5") == "$5"
