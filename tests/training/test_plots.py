"""The curves of the plot: in the pixels of the figure, and in the calls of matplotlib."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vsr.errors import InputError, OutputError
from vsr.imaging.pictures import read_picture
from vsr.training.log import LOG, Log, plot_losses

BLUE, GREEN, RED, BROWN, ORANGE, BLACK = (
    (31, 119, 180), (44, 160, 44), (214, 39, 40), (140, 86, 75), (255, 127, 14), (0, 0, 0)
)  # fmt: skip


def write_log(folder: Path, *, pretrain: int = 30, discriminator: int = 5, adversarial: int = 60) -> Path:
    """Write a log of synthetic rows, one per ten steps; every third row of the generator's stages has measurements."""
    random = np.random.default_rng(0)
    stages = ["pretrain"] * pretrain + ["discriminator"] * discriminator + ["adversarial"] * adversarial
    with Log(folder, step=0) as log:
        for index, stage in enumerate(stages):
            row: dict[str, float | str | None] = {"step": 10 * (index + 1), "stage": stage}
            noise = float(np.exp(0.1 * random.normal()))
            if stage == "pretrain":
                row |= {"mse": 0.01 * noise, "generator_loss": 0.01 * noise}
            else:
                row |= {"discriminator_loss": noise, "d_real": 0.7 * noise, "d_fake": 0.3 * noise}
            if stage == "adversarial":
                row |= {"content": 0.1 * noise, "adversarial": 0.02, "generator_loss": 0.1 * noise + 0.02}
            if stage != "discriminator" and index % 3 == 0:
                row |= {"psnr_y": 27 + noise, "ssim_y": 0.8, "lpips": 0.3 / noise}
            log.write(row)
    return folder / LOG


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are saved."""
    figures = []
    save = Figure.savefig

    def keep(figure: Figure, *arguments: object, **options: object) -> None:
        figures.append(figure)
        save(figure, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    return figures


def count(picture: np.ndarray, colour: tuple[int, int, int]) -> int:
    """Count the pixels close to a colour."""
    return int((np.abs(picture.astype(int) - colour).max(-1) < 40).sum())


def panels_of(figure: Figure) -> tuple[list[Axes], list[Axes]]:
    """Return the panels of the whole run and those of its last third."""
    axes = [axes for axes in figure.axes if axes.get_xlabel()]
    return axes[0::2], axes[1::2]


def test_every_panel_of_a_whole_run_has_its_curves(tmp_path: Path) -> None:
    target = tmp_path / "losses.png"
    assert plot_losses(write_log(tmp_path), target)
    picture = read_picture(target)
    assert picture.shape == (1750, 1600, 3)
    rows = [(BLACK, BLUE, RED), (BROWN,), (GREEN, RED), (BLUE,), (ORANGE,)]
    for index, colours in enumerate(rows):
        panel = picture[350 * index + 60 : 350 * index + 350]
        for half in (panel[:, 60:740], panel[:, 860:1500]):
            for colour in colours:
                assert count(half, colour) > 300, (index, colour)
    assert count(picture[60:350, 60:740], GREEN) > 100, "MSE over the sum, which it is all of"
    assert sorted(path.name for path in tmp_path.iterdir()) == [LOG, "losses.png"]


def test_only_panels_with_data_are_drawn(tmp_path: Path, drawn: list[Figure]) -> None:
    assert plot_losses(write_log(tmp_path, discriminator=0, adversarial=0), tmp_path / "losses.png")
    assert read_picture(tmp_path / "losses.png").shape == (1050, 1600, 3)
    whole, zoomed = panels_of(drawn[0])
    titles = [axes.get_title(loc="left") for axes in whole]
    assert titles == [
        "Generator: loss, each term times its weight",
        "Held-out pictures: PSNR-Y, more is better",
        "Held-out pictures: LPIPS, less is better",
    ]
    named = [[text.get_text() for text in axes.get_legend().get_texts()] for axes in zoomed]
    assert named == [["sum", "MSE"], ["PSNR-Y"], ["LPIPS (SqueezeNet)"]]
    assert all(axes.get_ylabel() for axes in whole + zoomed)


def test_stages_are_named_where_they_begin(tmp_path: Path, drawn: list[Figure]) -> None:
    plot_losses(write_log(tmp_path, pretrain=30, discriminator=5, adversarial=65), tmp_path / "losses.png")
    whole, zoomed = panels_of(drawn[0])
    for axes in whole:
        assert [(text.get_text(), text.xy[0]) for text in axes.texts] == [
            ("pretrain", 10), ("discriminator", 300), ("adversarial", 350)
        ]  # fmt: skip
        across = [list(line.get_xdata()) for line in axes.lines if list(line.get_ydata()) == [0, 1]]
        assert [ends for ends in across if ends != [0, 1]] == [[300, 300], [350, 350]]
    for axes in zoomed:
        assert [(text.get_text(), text.xy[0]) for text in axes.texts] == [("adversarial", 670)]
        assert axes.get_xlim() == pytest.approx((670 - 3.3, 1000 + 3.3))


def test_no_curve_runs_from_one_stage_into_another(tmp_path: Path, drawn: list[Figure]) -> None:
    plot_losses(write_log(tmp_path, pretrain=30, discriminator=0, adversarial=29), tmp_path / "losses.png")
    sums = [line for line in panels_of(drawn[0])[0][0].lines if line.get_label() == "sum"]
    assert [(line.get_xdata()[0], line.get_xdata()[-1]) for line in sums] == [(10, 300), (310, 590)]


def test_the_zoom_leaves_outliers_out(tmp_path: Path, drawn: list[Figure]) -> None:
    with Log(tmp_path, step=0) as log:
        for step in range(1, 601):
            loss = 50.0 if step == 500 else 1 + step % 2 / 10
            terms = {"content": 0.1 * (1 + step % 2), "total_variation": 1e-7}
            log.write({"step": step, "stage": "adversarial", "discriminator_loss": loss, **terms})
    plot_losses(tmp_path / LOG, tmp_path / "losses.png")
    whole, zoomed = panels_of(drawn[0])
    assert whole[1].get_ylim()[1] > 50
    assert zoomed[1].get_ylim() == pytest.approx((1 - 0.008, 1.1 + 0.008))
    assert whole[0].get_yscale() == zoomed[0].get_yscale() == "log"
    assert whole[0].get_ylim()[0] < 1e-7
    assert 0.05 < zoomed[0].get_ylim()[0] < 0.1 < 0.2 < zoomed[0].get_ylim()[1] < 0.3


def test_many_rows_are_smoothed(tmp_path: Path, drawn: list[Figure]) -> None:
    with Log(tmp_path, step=0) as log:
        for step in range(1, 301):
            log.write({"step": step, "stage": "pretrain", "mse": float(step % 5 + 1) if step != 150 else None})
    plot_losses(tmp_path / LOG, tmp_path / "losses.png")
    faint, bold = panels_of(drawn[0])[0][0].lines[:2]
    assert np.array_equal(faint.get_ydata()[:5], [2, 3, 4, 5, 1])
    assert bold.get_ydata()[7:140] == pytest.approx(np.full(133, 3.0)), "fifteen rows around each"
    assert bold.get_ydata()[0] == pytest.approx((2 + 3 + 4 + 5 + 1 + 2 + 3 + 4) / 8)
    assert math.isnan(bold.get_ydata()[149]) and not math.isnan(bold.get_ydata()[148])
    assert faint.get_alpha() < 0.5 and faint.zorder < bold.zorder, "the mean lies over the rows"


@pytest.mark.parametrize("last", [2, 7, 60, 12_000, 1_200_000])
def test_axes_have_whole_steps_and_no_offset(tmp_path: Path, drawn: list[Figure], last: int) -> None:
    """Also where the values differ by a ten-thousandth, or are tiny."""
    with Log(tmp_path, step=0) as log:
        for step in np.unique(np.linspace(1, last, 10).astype(int)).tolist():
            values = {"discriminator_loss": 1.3862 + 1e-6 * (step % 3), "d_real": 1e-7 * (1 + step % 2)}
            row = {"step": step, "stage": "adversarial", "mse": 0.5, "psnr_y": 28.0001 + step % 2 / 1e4, **values}
            log.write(row)
    plot_losses(tmp_path / LOG, tmp_path / "losses.png")
    whole, zoomed = panels_of(drawn[0])
    assert len(whole) == 4
    for axes in (*whole, *zoomed):
        low, high = axes.get_xlim()
        ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
        assert ticks and all(tick == round(tick) for tick in ticks)
        assert axes.xaxis.get_offset_text().get_text() == axes.yaxis.get_offset_text().get_text() == ""
        bottom, top = axes.get_ylim()
        shown = [
            label.get_text()
            for label, tick in zip(axes.get_yticklabels(), axes.get_yticks(), strict=True)
            if bottom <= tick <= top
        ]
        assert len(set(shown)) == len(shown), "each tick has a label of its own"


def test_lpips_is_named_by_the_backbone_of_the_log(tmp_path: Path, drawn: list[Figure]) -> None:
    with Log(tmp_path, step=0) as log:
        for step in (1, 2):
            log.write({"step": step, "stage": "pretrain", "lpips": 0.5, "lpips_backbone": "AlexNet"})
    plot_losses(tmp_path / LOG, tmp_path / "losses.png")
    (zoomed,) = panels_of(drawn[0])[1]
    assert [text.get_text() for text in zoomed.get_legend().get_texts()] == ["LPIPS (AlexNet)"]


@pytest.mark.parametrize("number", [0, 1])
def test_too_few_rows_are_not_drawn(tmp_path: Path, number: int) -> None:
    target = tmp_path / "losses.png"
    assert not plot_losses(write_log(tmp_path, pretrain=number, discriminator=0, adversarial=0), target)
    assert not target.exists()


@pytest.mark.parametrize(
    "values",
    [
        {"mse": (None, 0.5), "generator_loss": (math.nan, 0.5)},
        {"mse": (math.inf, 0.5), "psnr_y": (math.inf, 40.0)},
        {"psnr_y": (None, math.inf), "lpips": (None, 0.5)},
        {"mse": (0.0, 0.0), "discriminator_loss": (0.0, 0.0)},
        {"total_variation": (0.0, 1e-8), "content": (0.5, 0.5)},
        {"adversarial": (-0.5, 0.25), "generator_loss": (-0.25, 2.0)},
        {"adversarial": (-0.5, -0.5), "content": (None, None)},
        {"lpips": (0.5, None)},
    ],
)
def test_unusual_values(tmp_path: Path, values: dict[str, tuple[float | None, float | None]]) -> None:
    with Log(tmp_path, step=0) as log:
        for index in (0, 1):
            row = {name: pair[index] for name, pair in values.items()}
            log.write({"step": 1 + index, "stage": "adversarial", **row})
    assert plot_losses(tmp_path / LOG, tmp_path / "losses.png")
    assert read_picture(tmp_path / "losses.png").shape[1] == 1600


def test_a_log_without_any_value(tmp_path: Path) -> None:
    with Log(tmp_path, step=0) as log:
        for step in (1, 2):
            log.write({"step": step, "stage": "pretrain"})
    assert not plot_losses(tmp_path / LOG, tmp_path / "losses.png")


def test_unreadable_logs_and_unwritable_figures_are_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read the log"):
        plot_losses(tmp_path / LOG, tmp_path / "losses.png")
    log = write_log(tmp_path, pretrain=2, discriminator=0, adversarial=0)
    with pytest.raises(OutputError, match="cannot write .*losses.png: No such file"):
        plot_losses(log, tmp_path / "missing" / "losses.png")


def test_matplotlib_is_loaded_late_and_without_pyplot(tmp_path: Path) -> None:
    log = write_log(tmp_path, pretrain=3, discriminator=0, adversarial=0)
    script = (
        "import sys; from pathlib import Path; from vsr.training.log import plot_losses\n"
        "assert 'matplotlib' not in sys.modules\n"
        f"assert plot_losses(Path({str(log)!r}), Path({str(tmp_path / 'losses.png')!r}))\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True, timeout=120)
