//! Times layers of SmolLM2-135M's shapes in every form, and fits what a product costs beside its
//! multiplications: the constants of `welore-burn/src/plan/cost.rs`.
//!
//! ```sh
//! cargo bench -p welore-burn --bench layers              # 512 tokens, then 1
//! cargo bench -p welore-burn --bench layers -- 128       # 128 tokens
//! ```

use std::hint::black_box;
use std::time::Instant;

use burn::tensor::{Device, Distribution, Tensor};
use welore_burn::forms::{Form, Work};
use welore_burn::linear::{LowRankLinear, LowRankLinearConfig};

/// Outputs and inputs.
const SHAPES: [[usize; 2]; 4] = [[576, 576], [1536, 576], [576, 1536], [192, 576]];

/// Shares of the full rank.
const RANKS: [f64; 4] = [0.25, 0.5, 0.75, 0.95];

/// The layers of a shape have this many parameters in all, so that their weights come from memory,
/// as in a model.
const PARAMETERS: usize = 1 << 25;

/// The fastest of this many rounds counts.
const ROUNDS: usize = 5;

/// The work of a layer for a token, and the nanoseconds that it took.
type Measured = (Work, f64);

fn main() {
    let given: Vec<usize> = std::env::args().filter_map(|arg| arg.parse().ok()).collect();
    let all = if given.is_empty() { vec![512, 1] } else { given };
    for tokens in all {
        println!("{tokens} tokens at a time, nanoseconds a token:");
        let measured: Vec<Measured> = SHAPES.iter().flat_map(|shape| of(*shape, tokens)).collect();
        let [multiplication, product, value] = fit(&measured);
        println!(
            "a multiplication takes {multiplication:.6} ns; in this unit, product: {:.0}, value: {:.1}\n",
            product / multiplication,
            value / multiplication
        );
    }
}

/// Measures all forms of a shape.
fn of(shape: [usize; 2], tokens: usize) -> Vec<Measured> {
    let full = shape[0].min(shape[1]);
    let ranks = RANKS.map(|share| (share * full as f64) as usize);
    let low = ranks.into_iter().flat_map(|rank| [Form::factors(rank), Form::pivot(rank)]);
    let forms: Vec<Form> = [Form::dense()].into_iter().chain(low).collect();
    let measure = |form: Form| {
        let (work, time) = (form.work(shape), time(form, shape, tokens));
        println!("{:>4} x {:<4} {:<28} {time:>10.0}", shape[0], shape[1], form.to_string());
        (work, time)
    };
    forms.into_iter().map(measure).collect()
}

/// Nanoseconds a token.
fn time(form: Form, shape: [usize; 2], tokens: usize) -> f64 {
    let device = Device::flex();
    let copies = (PARAMETERS as u64 / form.parameters(shape)).max(1);
    let layers: Vec<LowRankLinear> = (0..copies).map(|_| layer(form, shape, &device)).collect();
    let input = random([tokens, shape[1]], &device);
    let round = || {
        let start = Instant::now();
        for layer in &layers {
            black_box(layer.forward(input.clone()));
        }
        1e9 * start.elapsed().as_secs_f64() / (copies as f64 * tokens as f64)
    };
    round();
    (0..ROUNDS).map(|_| round()).fold(f64::INFINITY, f64::min)
}

/// A random layer, whose form is known by its number of products and values.
fn layer(form: Form, [outputs, inputs]: [usize; 2], device: &Device) -> LowRankLinear {
    let Some(rank) = form.rank() else {
        let layer = LowRankLinearConfig::new(inputs, outputs).with_bias(false).init(device);
        // Parameters are created on first use.
        black_box(layer.weight.val());
        return layer;
    };
    let down = random([inputs, rank], device);
    if form == Form::factors(rank) {
        return LowRankLinear::from_factors(down, random([rank, outputs], device), None);
    }
    // Pivots are anywhere.
    let pivots: Vec<usize> = (0..rank).map(|place| place * outputs / rank).collect();
    let others = random([rank, outputs - rank], device);
    LowRankLinear::from_pivots(down, others, &pivots, None).expect("the pivots are distinct")
}

fn random(shape: [usize; 2], device: &Device) -> Tensor<2> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), device)
}

/// The times of a multiplication, of a product and of a moved value that explain what was measured
/// best, by relative error.
fn fit(measured: &[Measured]) -> [f64; 3] {
    let mut system = [[0.0; 4]; 3];
    for (work, time) in measured {
        let row = [work.multiplications, work.products, work.moved].map(|n| n as f64 / time);
        for (i, equation) in system.iter_mut().enumerate() {
            for (place, x) in row.iter().chain([&1.0]).enumerate() {
                equation[place] += row[i] * x;
            }
        }
    }
    // The system is symmetric and positive, so no pivoting is needed.
    for i in 0..3 {
        for j in 0..3 {
            if i != j {
                let factor = system[j][i] / system[i][i];
                let row = system[i];
                system[j].iter_mut().zip(row).for_each(|(x, y)| *x -= factor * y);
            }
        }
    }
    [0, 1, 2].map(|i| system[i][3] / system[i][i])
}
