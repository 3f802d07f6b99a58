"""Figures as files, also where several threads of a server ask for them."""

from concurrent.futures import ThreadPoolExecutor

from finetune_jax.reports import figures

ROWS = [{"epoch": str(i), "train_loss": str(2 / i)} for i in range(1, 4)]


def drawn(text: bool) -> bytes:
    return figures.encode(figures.draw_training_curves(ROWS, 2), "svg", text=text)


def test_figures_are_the_same_whoever_asks_at_the_same_time():
    expected = {text: drawn(text) for text in (False, True)}
    asked = [number % 2 == 0 for number in range(24)]
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(drawn, asked)) == [expected[text] for text in asked]
