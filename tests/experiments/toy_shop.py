"""A year of a made-up grocery shop in Complete Journey's files: each household has its own taste."""

from datetime import datetime, timedelta

import numpy as np
import polars as pl

CATEGORIES = tuple(f"CATEGORY {letter}" for letter in "ABCDEFGH")
PRODUCTS = 3  # of each category
NUM_HOUSEHOLDS = 120


def write_shop(folder, *, seed=0):
    """Write all files; the taste, one of two halves of the categories, tells who has kids."""
    generator = np.random.default_rng(seed)
    num_categories = len(CATEGORIES)
    products = pl.DataFrame(
        {
            "product_id": np.arange(num_categories * PRODUCTS) + 1000,
            "manufacturer_id": np.arange(num_categories * PRODUCTS) % 4,
            "department": [f"DEPARTMENT {i % 8}" for i in range(num_categories * PRODUCTS)],
            "brand": ["National", "Private"] * (num_categories * PRODUCTS // 2),
            "product_category": [CATEGORIES[i // PRODUCTS] for i in range(num_categories * PRODUCTS)],
            "product_type": [f"TYPE {i}" for i in range(num_categories * PRODUCTS)],
        }
    )
    rows = []
    for household in range(NUM_HOUSEHOLDS):
        taste = household % 2
        time = datetime(2017, 1, 1, 15) + timedelta(days=float(generator.uniform(0, 20)))
        while time < datetime(2017, 12, 31):
            own = generator.integers(0, 2, size=2) + taste * 3
            rare = generator.integers(6, num_categories, size=int(generator.random() < 0.02))
            for category in {*own.tolist(), *rare.tolist()}:
                product = 1000 + category * PRODUCTS + int(generator.integers(PRODUCTS))
                rows.append((household, 300 + household % 3, len(rows) + 1, product, time))
            time += timedelta(days=float(generator.uniform(4, 12)))
    household, store, basket, product, when = (list(column) for column in zip(*rows, strict=True))
    count = len(rows)
    files = {
        "transactions": pl.DataFrame(
            {
                "household_id": household,
                "store_id": store,
                "basket_id": basket,
                "product_id": product,
                "quantity": [1] * count,
                "sales_value": generator.uniform(1, 9, count).round(2),
                "retail_disc": [0.0] * count,
                "coupon_disc": (generator.random(count) < 0.1).astype(float),
                "coupon_match_disc": [0.0] * count,
                "transaction_timestamp": when,
            }
        ),
        "products": products,
        "demographics": pl.DataFrame(
            {
                "household_id": range(NUM_HOUSEHOLDS),
                "age": ["45-54"] * NUM_HOUSEHOLDS,
                "income": [("Under 15K", "75-99K")[(i // 2) % 2] for i in range(NUM_HOUSEHOLDS)],
                "home_ownership": [("Renter", "Homeowner")[(i // 3) % 2] for i in range(NUM_HOUSEHOLDS)],
                "marital_status": ["Married"] * NUM_HOUSEHOLDS,
                "household_size": ["2"] * NUM_HOUSEHOLDS,
                "household_comp": ["2 Adults No Kids"] * NUM_HOUSEHOLDS,
                "kids_count": [str(i % 2) for i in range(NUM_HOUSEHOLDS)],
            }
        ),
        "campaigns": pl.DataFrame({"campaign_id": [1] * 9, "household_id": range(9)}),
        "campaign_descriptions": pl.DataFrame(
            {"campaign_id": [1], "campaign_type": ["Type B"], "start_date": [datetime(2017, 3, 3)]}
        ),
        "coupons": pl.DataFrame({"coupon_upc": [10_000_000_001], "product_id": [1000]}),
        "coupon_redemptions": pl.DataFrame(
            {
                "household_id": [8],
                "coupon_upc": [10_000_000_001],
                "campaign_id": [1],
                "redemption_date": [datetime(2017, 3, 12)],
            }
        ),
    }
    folder.mkdir(parents=True)
    for name, frame in files.items():
        frame.write_parquet(folder / f"{name}.parquet")
    return str(folder)
