"""What docs/coverage.md lists: the mechanisms of the studies, with a file, a text, or what is missing."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """A mechanism: a file of the library, or a text that is enough, or what is missing (and a text that is refused).

    A text is the inside of an attention; `header` are its parameters, `before` what stands before it.
    """

    name: str
    std: str = ""
    text: str = ""
    missing: str = ""
    note: str = ""
    header: str = ""
    before: str = ""

    @property
    def shown(self) -> str:
        """What tells a reader most."""
        return self.before.partition("{ ")[2].removesuffix(" }") if self.before else self.text

    @property
    def source(self) -> str:
        """The whole text."""
        return f"{self.before}\nattention a({self.header}) {{ {self.text} }}"


_SELECT = "a selection by score (`select`): an outside step may choose the keys and pass their ids to a mask"
_CHAIN = "several attentions, one after the other, in one spec; two ops in the model"
_RECURRENCE = "`recurrence`: a state that is carried along the keys"

MASKS = (
    Entry("full", "full"),
    Entry("causal", "causal"),
    Entry("sliding window", "sliding_window"),
    Entry("prefix LM", "prefix_lm"),
    Entry("packed documents", "document", note="and `cu_seqlens` at the call, with positions of each document"),
    Entry("dilated window", "dilated_window"),
    Entry("StreamingLLM", "streaming", note="the mask; rotation by slot of the cache is the model's"),
    Entry("Longformer", "longformer", note="the second projections of global rows are the model's"),
    Entry("BigBird", "bigbird"),
    Entry("Sparse Transformer, strided", "strided"),
    Entry("Sparse Transformer, fixed", "fixed"),
    Entry("PowerAttention, by tokens", "power"),
    Entry("PowerAttention, by blocks", "power_block"),
    Entry("blockwise S2 (Phi-3-small)", "s2"),
    Entry("DuoAttention", "duo"),
    Entry("MoA", "moa"),
    Entry("LongLoRA S2-Attn", "long_lora"),
    Entry("BlockRank", "block_rank"),
    Entry("NAAViT", "naavit"),
    Entry("SAISA", missing="rows that are no queries and layers that replace them: the model's"),
    Entry("graph adjacency", "graph"),
    Entry("Block Transformer", missing=_CHAIN),
    Entry("FIT", missing=_CHAIN),
    Entry("Combiner", missing=f"keys pooled by segment, whose values are attentions themselves: {_CHAIN}"),
    Entry("neighborhood, DiNA, GNA (1D)", "neighborhood_1d"),
    Entry("neighborhood (2D)", "neighborhood_2d"),
    Entry("neighborhood (3D)", "neighborhood_3d"),
    Entry("neighborhood (3D) beside text", "neighborhood_3d_text"),
    Entry("sliding tile attention", "sliding_tile_3d"),
    Entry("HaloNet", "halo"),
    Entry("Swin", "swin"),
    Entry("MaxViT, blocks", "maxvit_block"),
    Entry("MaxViT, grid", "maxvit_grid"),
    Entry("axial", "axial"),
    Entry("criss-cross", text="grid (y: 8, x: 8); mask i.y == j.y or i.x == j.x"),
    Entry("region attention", "region"),
    Entry("radial", "radial"),
)

SELECTIONS = (
    *(
        Entry(name, missing=_SELECT)
        for name in (
            "MoBA", "VMoBA", "SeerAttention", "PBS-Attn", "PSA (pyramid)", "HiP", "BiFormer", "DHSA", "ProxyAttn",
            "SALE", "SEA", "Routing Transformer", "InfLLM-V2, NOSA", "Quest", "H2O", "SpAtten", "Recycled, HyLRA",
            "Superlinear",
        )
    ),
    Entry("CCA", missing="keys pooled by group beside single keys: a key-side reduction before the attention"),
)  # fmt: skip

BIASES = (
    Entry("ALiBi", "alibi"),
    Entry("low-rank bias (FlashBias)", text="q = concat(q, fq[b, h, i]); k = concat(k, fk[b, hk, j])",
          header="fq: real[B, H, N, 4], fk: real[B, Hk, M, 4]"),
    Entry("spatial distance bias", text="bias -w[h] * dot(x[b, i], x[b, i]) + 2 * w[h] * dot(x[b, "
            "i], y[b, j]) - w[h] * dot(y[b, j], y[b, j])",
          header="x: real[B, N, 3], y: real[B, M, 3], w: real[H]"),
    Entry("pair bias (AlphaFold 3)", text="bias pair[b, h, i, j]", header="pair: real[B, H, N, M]"),
    Entry("relative table", "relative_table"),
    Entry("T5 buckets", "t5"),
    Entry("Swin table", text="grid (y: 7, x: 7); bias t[h, i.y - "
            "j.y + 6, i.x - j.x + 6]", header="t: real[H, 13, 13] learned"),
    Entry("Swin V2 cosine", text="score dot(normalize(q), normalize(k)) * "
            "exp(min(l[h], log(100.0)))", header="l: real[H] learned"),
    Entry("KERPLE, logarithm", text="bias -p[h] * log1p(a[h] * abs(i - j))", header="p: real[H], a: real[H]"),
    Entry("KERPLE, power", text="bias -a[h] * real(abs(i - j)) ^ p[h]", header="p: real[H], a: real[H]"),
    Entry("FIRE", text="bias dot(u[h], relu(a * (log1p(abs(c * real(i - j))) / "
            "(log1p(c * real(max(i, 512))) + 1e-6)) + z))",
          header="u: real[H, 32], a: real[32], z: real[32], c: real = 0.1"),
    Entry("Sandwich", text="bias c[h] * dot(a[i], a[j])", header="a: real[M, 128], c: real[H]",
          note="`a` holds sines and cosines of positions"),
    Entry("RoPE", "rope"),
    Entry("RoPE along axes", text="grid (y: 8, x: 8); q = rope(rope(q, i.y, dims: 8), i.x, start: 8, dims: 8)",
          header="", note="for k alike"),
    Entry("RMT decay", text="grid (y: 8, x: 8); bias l[h] * (abs(i.y - j.y) + abs(i.x - j.x))", header="l: real[H]"),
    Entry("Transformer-XL", text="score scale * (dot(q + u[h], k) + dot(q + w[h], r[h, i - j]))",
          header="u: real[H, D], w: real[H, D], r: real[H, 64, D]"),
    Entry("RCMHA", missing="a convolution along the tokens before the attention: the model's"),
    Entry("DeBERTa", text="score (dot(q, k) + dot(q, pk[h, min(max(i - j + 8, 0), 15)]) + "
            "dot(k, pq[h, min(max(i - j + 8, 0), 15)])) / sqrt(3.0 * D)",
          header="pk: real[H, 16, D], pq: real[H, 16, D]"),
    Entry("CoPE", missing="running sums over the keys of a row"),
    Entry("kernel attention with RPE by FFT", missing="a Toeplitz product by FFT; its direct form is a text"),
    Entry("URPE", "urpe"),
    Entry("ST-LINK", text="q = rope(q, angle[b, i]); k = "
            "rope(k, angle[b, j])", header="angle: int[B, M]", note="whole angles"),
)  # fmt: skip

NORMALIZERS = (
    Entry("softmax", "softmax"),
    Entry("softmax with a sink, off by one", "softmax_sink"),
    Entry("sigmoid", "sigmoid"),
    Entry("squared ReLU", "relu2"),
    Entry("softcap", "softcap"),
    Entry("cosine", "cosine"),
    Entry("softplus, L1", "softplus_l1"),
    Entry("LSSAR", "softplus_reweighted"),
    Entry("SSMax", "ssmax"),
    Entry("selective temperature (SSA)", "selective_temperature", note="the part by position"),
    Entry("forgetting (FoX)", "forgetting", note="the cumulative sum is given"),
    Entry("Parallax", "parallax"),
    Entry("differential", "differential"),
    Entry("reversed (softmax over queries)", "reversed"),
    Entry("inverted: softmax over queries, then L1", before="normalizer n { m = max[i](s); p = exp(s - (m + "
            "log(sum[i](exp(s - m))))); w = p / (sum[j](p) + 1e-8) }",
          text="normalizer n"),
    Entry("Re-ttention", "reattention"),
    Entry("positional", "positional"),
    Entry("RBF, L2", "rbf"),
    Entry("additive (Bahdanau)", "additive"),
    Entry("gated output", text="out = o * sigmoid(gate[b, h, i])", header="gate: real[B, H, N]"),
    Entry("MoH", text="out = o * gate[b, h, i]", header="gate: real[B, H, N]", note="the router is the model's"),
    Entry("sinks at half weight (VAR)", before="normalizer n(sink: bool[B, M]) { m = max[j](s); p = exp(s - m) "
            "* where(sink[b, j], 0.6, 1.0); w = p / sum[j](p) }",
          text="normalizer n(sink)", header="sink: bool[B, M]", note="the choice of tokens and heads is the model's"),
    Entry("entmax 1.5, sparsemax", missing="a root per row (`solve`)"),
    Entry("landmark", before="normalizer n { m = max[j by j // 64](s); p = exp(s - m); w = p / sum[j by j // 64](p) }",
          text="normalizer n", missing="statistics inside groups of keys (`[j by g]` has a meaning, no kernel)"),
    Entry("agent", missing=_CHAIN),
    Entry("KArAt", missing="a vector of statistics per row (`sum[j]` of vectors)"),
    Entry("LLA", missing="a linear solve per row (`solve`)"),
    Entry("stick-breaking", missing="running sums over the keys of a row"),
    Entry("Google selective attention", missing="running sums over the queries of a column"),
    Entry("ACT", missing="statistics of columns of normalized weights by threshold; a text where thresholds are given"),
    Entry("ACMIL", missing="random numbers inside a kernel, and a threshold by rank"),
    Entry("DaViT channel attention", missing="attention over features instead of tokens"),
    Entry("PSA (polarized)", missing="pooling over tokens: the model's"),
    Entry("MLA", missing="values that are a part of the keys (an alias); with copies it is a text"),
    Entry("grouped heads", "causal", note="every spec, by the sizes of k and v"),
)  # fmt: skip

LINEAR = (
    Entry("linear (elu + 1)", "linear", note="linear in the tokens: full tiles through states (decision 0017)"),
    Entry("ReLU", "relu_linear", note="as above"),
    Entry("Based", "based_taylor", note="tiles of pairs: states of D^2 rows where its features are declared"),
    Entry("cosFormer", "cosformer", note="linear in the tokens"),
    Entry("Hedgehog", "hedgehog", note="as above; the projection is the model's"),
    Entry("Performer", "performer", note="as above; random features are given"),
    Entry("MALA", "mala", note="as above"),
    Entry("Flow-Attention", "flow", note="as above, not causal"),
    Entry("ReBased", before="normalizer n { a = s ^ 2; w = a / (sum[j](a) + 1e-6) }", text="normalizer n"),
    Entry("DPFP", missing="products of shifted features"),
    Entry("softmax feature maps", before="normalizer n { w = dot(exp(q - max[d](q)) / "
            "sum[d](exp(q - max[d](q))), k) }", text="normalizer n",
          note="its softmax over all keys is a map of k outside"),
    Entry("PolaFormer", missing="halves of the values with weights of their own: two ops"),
    Entry("L2ViT", before="normalizer n { a = dot(relu(q), relu(k)); w "
            "= a / max(sum[j](a), 100.0) }", text="normalizer n"),
)  # fmt: skip

RECURRENCES = (
    Entry("RetNet, parallel form", before="normalizer n(g: real[H]) { a = s * exp(real(i - j) * "
            "log(g[h])); w = a / max(abs(sum[j](a)), 1.0) }",
          text="mask j <= i; normalizer n(g)", header="g: real[H]"),
    *(
        Entry(name, missing=_RECURRENCE)
        for name in (
            "RetNet", "Lightning", "simple GLA, Mamba-2", "mLSTM", "GLA", "HGRN, HGRN2", "RWKV-6", "DeltaNet",
            "gated DeltaNet", "KDA, GDN-2", "Comba", "RWKV-7", "DeltaProduct", "ABC, GSA", "Mamba-1", "MEGA", "TCNCA",
            "TTT, Titans, Miras", "gated Oja", "Aaren", "RAT", "PaTH", "Mesa", "log-linear attention",
        )
    ),
)  # fmt: skip
