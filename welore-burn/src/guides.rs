//! The Rust code of the README and of the guides in `docs/guides`, compiled and run as documentation
//! tests. The published package does not contain the guides, and only `cargo test --doc` reads them.

#[doc = include_str!("../../README.md")]
struct Readme;

#[doc = include_str!("../../docs/guides/low-rank-linear.md")]
struct LowRankLinear;

#[doc = include_str!("../../docs/guides/rank-policy.md")]
struct RankPolicy;

#[doc = include_str!("../../docs/guides/fine-tune.md")]
struct FineTune;

#[doc = include_str!("../../docs/guides/gpu.md")]
struct Gpu;
