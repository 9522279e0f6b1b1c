//! The Rust code of the guides in `docs/guides`, compiled and run as documentation tests. Packages
//! lack those files, and only `cargo test --doc` looks for them.

#[doc = include_str!("../../docs/guides/low-rank-linear.md")]
struct LowRankLinear;

#[doc = include_str!("../../docs/guides/rank-policy.md")]
struct RankPolicy;

#[doc = include_str!("../../docs/guides/fine-tune.md")]
struct FineTune;

#[doc = include_str!("../../docs/guides/gpu.md")]
struct Gpu;
