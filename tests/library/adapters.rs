//! LoRA adapters on any module, whatever the form of its matrices.

use burn::module::{Module, ParamGroup};
use burn::nn::{Linear, LinearConfig};
use burn::optim::{AdamWConfig, GradientsParams};
use burn::tensor::{Device, Distribution, Tensor, Tolerance};
use safetensors::Dtype;
use welore_burn::checkpoint::{CheckpointError, DEFAULT_SHARD_BYTES, save_module};
use welore_burn::forms::{Form, FormError};
use welore_burn::linear::{LowRankLinear, LowRankLinearConfig};
use welore_burn::modules::Selection;
use welore_burn::train::{LoraOptions, TrainError, add_adapters};

use crate::train::parameters;
use crate::{device, trainable};

const OPTIONS: LoraOptions = LoraOptions { rank: 2, alpha: 4.0 };

/// A layer of ours in every form, and one of Burn's that is factored.
#[derive(Module, Debug)]
struct Net {
    dense: LowRankLinear,
    factors: LowRankLinear,
    pivots: LowRankLinear,
    plain: Linear,
}

impl Net {
    fn new(device: &Device) -> Self {
        let layer = || LowRankLinearConfig::new(6, 6).init(device);
        Self {
            dense: layer(),
            factors: layer().factored(3).unwrap(),
            pivots: layer().to_form(Form::pivot(3)).unwrap(),
            plain: LowRankLinear::from(LinearConfig::new(6, 6).init(device))
                .factored(3)
                .unwrap()
                .into(),
        }
    }

    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let x = self.pivots.forward(self.factors.forward(self.dense.forward(x)));
        self.plain.forward(x)
    }
}

fn adapted(net: Net) -> Net {
    add_adapters(net, &Selection::all(), &OPTIONS).unwrap()
}

fn random(device: &Device) -> Tensor<2> {
    Tensor::random([8, 6], Distribution::Normal(0.0, 1.0), device)
}

/// A few steps towards random targets, in any training loop.
fn tuned(mut net: Net, x: &Tensor<2>) -> Net {
    let y = random(&x.device());
    let mut optimizer = AdamWConfig::new().init();
    let mut losses = Vec::new();
    for _ in 0..20 {
        let loss = (net.forward(x.clone()) - y.clone()).square().mean();
        losses.push(loss.clone().into_scalar::<f64>());
        let grads = GradientsParams::from_grads(loss.backward(), &net);
        net = optimizer.step(0.02, net, grads);
    }
    assert!(losses[19] < losses[0], "{losses:?}");
    net
}

fn assert_same(a: Tensor<2>, b: Tensor<2>) {
    a.into_data().assert_approx_eq::<f32>(&b.into_data(), Tolerance::rel_abs(1e-4, 1e-4));
}

#[test]
fn new_adapters_change_nothing_and_only_they_train() {
    let device = device().autodiff();
    let net = Net::new(&device);
    let x = random(&device);
    let with = adapted(net.clone());
    assert_same(with.forward(x.clone()), net.forward(x));
    assert_eq!(with.factors.form(), Form::factors(3));
    assert_eq!(with.pivots.form(), Form::pivot(3));
    assert_eq!(with.num_params(), net.num_params() + 4 * 2 * (6 + 6));
    assert_eq!(
        trainable(&with),
        [
            "dense.weight.lora.a",
            "dense.weight.lora.b",
            "factors.weight.low_rank.up.lora.a",
            "factors.weight.low_rank.up.lora.b",
            "pivots.weight.low_rank.up.lora.a",
            "pivots.weight.low_rank.up.lora.b",
            "plain.weight.low_rank.up.lora.a",
            "plain.weight.low_rank.up.lora.b",
        ]
    );
    let some = Selection::of(["factors"]).unwrap();
    let some = add_adapters(net, &some, &OPTIONS).unwrap();
    assert_eq!(
        trainable(&some),
        ["factors.weight.low_rank.up.lora.a", "factors.weight.low_rank.up.lora.b"]
    );
}

#[test]
fn training_moves_adapters_alone_and_merging_keeps_what_they_learned() {
    let device = device().autodiff();
    let net = adapted(Net::new(&device));
    let x = random(&device);
    let before = parameters(&net);
    let net = tuned(net, &x);
    for ((path, old), (_, new)) in before.iter().zip(&parameters(&net)) {
        assert_eq!(old != new, path.contains(".lora."), "{path}");
    }
    let plain = net.valid();
    let x = x.inner();
    let expected = plain.forward(x.clone());
    let merged = plain.materialize();
    let forms = [&merged.dense, &merged.factors, &merged.pivots].map(LowRankLinear::form);
    assert_eq!(forms, [Form::dense(); 3]);
    assert_eq!(merged.num_params(), 4 * (6 * 6 + 6));
    assert_same(merged.forward(x), expected);
}

#[test]
fn adapters_are_recorded_alone_and_put_on_the_same_model_again() {
    let device = device().autodiff();
    let base = Net::new(&device);
    let x = random(&device);
    let net = tuned(adapted(base.clone()), &x);
    let expected = net.forward(x.clone());
    let record = net.into_record_group(ParamGroup::from_predicate(".lora."));
    assert_eq!(record.len(), 8);
    let again = adapted(base).load_record(record.allow_partial(true));
    assert_same(again.forward(x), expected);
}

#[test]
fn adapters_that_cannot_be_are_refused() {
    let net = Net::new(&device());
    let refused = |patterns: &[&str], options: LoraOptions| {
        let selection = Selection::of(patterns).unwrap();
        add_adapters(net.clone(), &selection, &options).unwrap_err()
    };
    for options in [
        LoraOptions { rank: 0, ..OPTIONS },
        LoraOptions { rank: 7, ..OPTIONS },
        LoraOptions { alpha: -1.0, ..OPTIONS },
    ] {
        let error = refused(&["*"], options);
        assert!(matches!(&error, TrainError::Option { .. }), "{error}");
    }
    let error = refused(&["hidden"], OPTIONS);
    assert!(matches!(&error, TrainError::UnmatchedPattern { .. }), "{error}");
    let none = Selection::all().except(["*"]).unwrap();
    let error = add_adapters(net.clone(), &none, &OPTIONS).unwrap_err();
    assert!(matches!(&error, TrainError::NothingSelected), "{error}");
    for name in ["dense", "pivots"] {
        let selection = Selection::of([name]).unwrap();
        let once = add_adapters(net.clone(), &selection, &OPTIONS).unwrap();
        let error = add_adapters(once, &selection, &OPTIONS).unwrap_err();
        let twice = matches!(&error, TrainError::Form { source: FormError::Adapted, .. });
        assert!(twice && error.to_string().contains(name), "{error}");
    }
}

#[test]
fn a_module_with_adapters_is_not_saved_without_them() {
    let dir = tempfile::tempdir().unwrap();
    let save =
        |net: &Net| save_module(net, dir.path(), |_| Dtype::F32, DEFAULT_SHARD_BYTES, &mut ());
    for name in ["dense", "factors", "pivots", "plain"] {
        let one = Selection::of([name]).unwrap();
        let net = add_adapters(Net::new(&device()), &one, &OPTIONS).unwrap();
        let CheckpointError::Form { matrix, source, .. } = save(&net).unwrap_err() else {
            panic!("another error")
        };
        assert!(matches!(source, FormError::Adapted));
        assert_eq!(matrix.as_str(), name);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
    save(&adapted(Net::new(&device())).materialize()).unwrap();
}
