"""Kinds of products of Online Retail, which has none: a fixed list of words in item descriptions.

An item is of every kind one of whose words stands in its description as a whole word. Kinds follow what a
gift wholesaler's shelves would be; seasonal ones (Christmas, Easter, Valentine's) are left out.
"""

from collections.abc import Mapping

import polars as pl

KEYWORDS: Mapping[str, tuple[str, ...]] = {
    "aprons": ("APRON", "APRONS"),
    "art and pictures": ("PICTURE", "PRINT", "WALL ART", "POSTER"),
    "bags": ("BAG", "BAGS", "SHOPPER", "TOTE"),
    "baking": ("BAKING", "CAKE CASES", "CAKESTAND", "CAKE STAND", "COOKIE CUTTERS", "CAKE"),
    "bathroom": ("BATH", "BATHROOM", "SOAP", "TOWEL", "TOWELS", "TOOTHBRUSH"),
    "birds and butterflies": ("BIRD", "BIRDS", "BUTTERFLY", "BUTTERFLIES"),
    "bottles and jars": ("BOTTLE", "BOTTLES", "JAR", "JARS"),
    "bowls and plates": ("BOWL", "BOWLS", "PLATE", "PLATES", "DISH", "TRAY", "TRAYS"),
    "boxes and baskets": ("BOX", "BOXES", "BASKET", "BASKETS", "STORAGE"),
    "bunting and garlands": ("BUNTING", "GARLAND", "GARLANDS", "PAPER CHAIN"),
    "candles": ("CANDLE", "CANDLES", "T-LIGHT", "CANDLESTICK", "INCENSE"),
    "cards and wrap": ("CARD", "CARDS", "WRAP", "POSTCARD"),
    "clocks": ("CLOCK", "CLOCKS"),
    "cushions": ("CUSHION", "CUSHIONS", "QUILT", "THROW"),
    "doormats": ("DOORMAT", "DOORMATS"),
    "first aid and tissues": ("PLASTERS", "TISSUES", "FIRST AID"),
    "frames": ("FRAME", "FRAMES", "PHOTO ALBUM", "ALBUM"),
    "furniture": ("CHAIR", "TABLE", "CABINET", "DRAWER", "STOOL", "SHELF", "BENCH"),
    "games and toys": ("GAME", "TOY", "PUZZLE", "DOLL", "DOMINOES", "LUDO", "JIGSAW"),
    "garden": ("GARDEN", "GARDENERS", "PLANT", "WATERING CAN", "SEEDS", "TROWEL"),
    "hooks and hangers": ("HOOK", "HOOKS", "HANGER", "HANGERS", "KNOB", "DOORKNOB"),
    "hot water bottles": ("HOT WATER BOTTLE", "HAND WARMER", "WOOLLY HOTTIE"),
    "jewellery": ("NECKLACE", "BRACELET", "EARRINGS", "RING", "BROOCH", "HAIRCLIP", "BANGLE"),
    "kitchen": ("KITCHEN", "CUTLERY", "RECIPE", "OVEN", "CHOPPING BOARD", "COLANDER"),
    "lamps and lights": ("LAMP", "LIGHT", "LIGHTS", "LANTERN", "LAMPSHADE", "CHANDELIER"),
    "lunch boxes": ("LUNCH BOX", "LUNCH BAG", "SNACK BOX", "SNACK BOXES"),
    "magnets": ("MAGNET", "MAGNETS", "FRIDGE MAGNETS"),
    "mirrors": ("MIRROR", "MIRRORS"),
    "mugs and tea": ("MUG", "MUGS", "TEACUP", "TEAPOT", "TEA", "COFFEE"),
    "napkins and tablecloths": ("NAPKINS", "TABLECLOTH", "PAPER CUPS", "PAPER PLATES", "COASTERS"),
    "retrospot": ("RETROSPOT",),
    "sewing": ("SEWING", "KNITTING", "RIBBON", "RIBBONS", "FELTCRAFT", "EMBROIDERY"),
    "signs": ("SIGN", "SIGNS", "CHALKBOARD", "BLACKBOARD"),
    "stationery": ("PENCIL", "PENCILS", "PEN", "NOTEBOOK", "PASSPORT COVER", "ERASERS", "STICKERS"),
    "tins": ("TIN", "TINS"),
    "umbrellas": ("UMBRELLA", "PARASOL"),
    "vases and ornaments": ("VASE", "ORNAMENT", "TRINKET", "TRINKET BOX", "FIGURINE"),
}  # fmt: skip


def keywords_of(description: pl.Expr) -> pl.Expr:
    """Return the kinds of each description: a list of names in the order of ``KEYWORDS``, perhaps empty.

    >>> frame = pl.DataFrame({"text": ["RED RETROSPOT TEA TOWEL", "TEASPOON", None]})
    >>> frame.select(keywords_of(pl.col("text"))).to_series().to_list()
    [['bathroom', 'mugs and tea', 'retrospot'], [], []]
    """
    text = description.fill_null("").str.to_uppercase().str.replace_all(r"\s+", " ")
    found = [
        pl.when(text.str.contains(_pattern(words))).then(pl.lit(name)) for name, words in KEYWORDS.items()
    ]
    return pl.concat_list(found).list.drop_nulls().alias("keywords")


def _pattern(words: tuple[str, ...]) -> str:
    # a hyphen belongs to a word: T-LIGHT is no LIGHT
    return rf"(?:^|[^\w-])(?:{'|'.join(words)})(?:$|[^\w-])"
