"""What people type, and the page that must come first or second."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

QUERIES = {
    # terms of the chapters
    "reference count": "garbage_collection",
    "weak reference": "garbage_collection",
    "gc.collect": "garbage_collection",
    "generations": "garbage_collection",
    "interning": "objects",
    "mutable default": "objects",
    "shallow copy": "objects",
    "getsizeof": "objects",
    "method resolution order": "inheritance",
    "diamond": "inheritance",
    "mixin": "inheritance",
    "super()": "inheritance",
    "descriptor": "inheritance",
    "breakpoint": "debugging",
    "post-mortem": "debugging",
    "set_trace": "debugging",
    "LSTM": "transformer",
    "multi-head attention": "transformer",
    "KV cache": "transformer",
    "positional encoding": "transformer",
    "RoPE": "transformer",
    "feature map": "linear_attention",
    "delta rule": "linear_attention",
    "Performer": "linear_attention",
    "gated attention unit": "gated_attention",
    "GAU": "gated_attention",
    "online softmax": "flash_attention",
    "Triton": "flash_attention",
    "tiling": "flash_attention",
    "Xavier": "initialization",
    "muP": "initialization",
    "loss scaling": "mixed_precision",
    "bfloat16": "mixed_precision",
    "Hungarian": "detr",
    "GIoU": "detr",
    "classifier-free guidance": "stable_diffusion",
    "DDIM": "stable_diffusion",
    # names of the code
    "flash_attention": "flash_attention",
    "linear_attention": "linear_attention",
    "c3": "inheritance",
    "linearize": "inheritance",
    "run_pdb": "debugging",
    "object_graph": "objects",
    "GatedAttentionUnit": "gated_attention",
    "scaled_dot_product_attention": "transformer",
    "LossScaler": "mixed_precision",
    "hungarian_match": "detr",
    "UNet2DConditionModel": "stable_diffusion",
    # the articles, and their terms
    "引用计数": "garbage_collection",
    "垃圾回收": "garbage_collection",
    "对象与引用": "objects",
    "继承与 MRO": "inheritance",
    "pdb 调试": "debugging",
    "注意力机制": "transformer",
    "线性注意力": "linear_attention",
    "门控注意力单元": "gated_attention",
    "在线 Softmax": "flash_attention",
    "初始化": "initialization",
    "混合精度训练": "mixed_precision",
    "目标检测": "detr",
    "扩散模型": "stable_diffusion",
}


@pytest.fixture(scope="module")
def tab(browser: Any) -> Iterator[Any]:
    tab = browser.new_page()
    yield tab
    tab.close()


def first_pages(tab: Any, site_url: str, query: str) -> list[str]:
    tab.goto(f"{site_url}search.html?q={quote(query)}", wait_until="load")
    links = tab.locator("#search-results ol.search > li > a").all()[:2]
    return [str(link.get_attribute("href")) for link in links]


def test_queries_find_their_page_first_or_second(tab: Any, site_url: str) -> None:
    missed, slowest = {}, 0.0
    for query, page in QUERIES.items():
        found = first_pages(tab, site_url, query)
        if not any(address.endswith(f"book/{page}.html") for address in found):
            missed[query] = found
        summary = tab.locator(".search-summary")
        slowest = max(slowest, float(summary.get_attribute("data-milliseconds")))
    hits = len(QUERIES) - len(missed)
    print(f"{hits} of {len(QUERIES)} queries, the slowest in {slowest} ms")
    assert missed == {}
