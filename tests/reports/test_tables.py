"""Tables as people read them."""

from finetune_jax.reports import tables


def test_a_turned_table_has_its_rows_as_columns():
    table = tables.Table(["data set", "images", "accuracy"], [["a", 4, "50.00 %"], ["b", 6, None]])
    turned = tables.turned(table)
    assert turned.columns == ["data set", "a", "b"]
    assert turned.rows == [["images", "4", "6"], ["accuracy", "50.00 %", "–"]]
