//! Your own rank policy, complete in one file.
//!
//! ```sh
//! cargo run --release -p welore-burn --example policy
//! ```
//!
//! `Careful` weighs what each matrix loses like `Energy` does, but counts the first and the last
//! layer tenfold, so that they keep higher ranks.

use std::collections::BTreeMap;

use welore_burn::forms::Storage;
use welore_burn::plan::{
    Allocation, Energy, PlanError, PlanOptions, RankPolicy, RankProblem, Target, make_plan,
};
use welore_burn::spectrum::{MatrixSpectrum, ModelSize, Spectra};

#[derive(Debug)]
struct Careful {
    layers: usize,
}

impl RankPolicy for Careful {
    fn name(&self) -> &'static str {
        "careful"
    }

    fn allocate(&self, problem: &RankProblem<'_>) -> Result<Allocation, PlanError> {
        let (first, last) = ("layers.0.".to_string(), format!("layers.{}.", self.layers - 1));
        // What is lost at rank 1, 2, …; a dense matrix loses nothing.
        problem.least_loss(|spectrum| {
            let name = spectrum.name.as_str();
            let at_an_end = name.contains(&first) || name.contains(&last);
            let weight = if at_an_end { 10.0 } else { 1.0 };
            let squares: Vec<f64> = spectrum.singular_values.iter().map(|s| s * s).collect();
            let total: f64 = squares.iter().sum();
            (1..=squares.len())
                .map(|rank| weight * squares[rank..].iter().sum::<f64>() / total)
                .collect()
        })
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // `measure_module` or `measure_checkpoint` give the spectra of a model.
    let matrix = |layer: usize| MatrixSpectrum {
        name: format!("layers.{layer}.proj").into(),
        shape: [64, 64],
        dtype: safetensors::Dtype::F32,
        digest: None,
        singular_values: (0..64).map(|i| 1.0 / (1.0 + i as f64)).collect(),
        measurements: BTreeMap::new(),
    };
    let size = ModelSize { parameters: 6 * 64 * 64, bytes: 4 * 6 * 64 * 64 };
    let spectra = Spectra::new("example", size, (0..6).map(matrix).collect())?;
    let options =
        PlanOptions { storage: Storage::Pivot, ..PlanOptions::to(Target::KeepParams(0.5)) };
    for policy in [&Energy as &dyn RankPolicy, &Careful { layers: 6 }] {
        let plan = make_plan(&spectra, policy, &options)?;
        let ranks: Vec<usize> = plan.matrices.iter().map(|matrix| matrix.rank).collect();
        println!(
            "{:>8}: ranks {ranks:?}, {:.1}% kept",
            policy.name(),
            100.0 * plan.totals.keep_params
        );
    }
    Ok(())
}
