//! The methods of compression, each with its default policy and storage.

use welore_burn::forms::Storage;
use welore_burn::named::Named;
use welore_burn::plan::{Energy, Loss, RankPolicy, WeLore};
use welore_burn::spectrum::Method;

/// A way to compress, with its default policy and storage.
#[derive(Debug)]
pub struct Way {
    /// Its name.
    pub name: &'static str,
    /// One line of help.
    about: &'static str,
    /// The norm in which its factors are best.
    pub method: Method,
    /// How ranks are chosen by default.
    pub policy: &'static dyn RankPolicy,
    /// How low-rank matrices are stored by default.
    pub storage: Storage,
    /// Whether each matrix is compressed for the inputs that it has once those before it are compressed.
    pub is_sequential: bool,
}

/// Ways are equal if their names are.
impl PartialEq for Way {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

static SVD: Way = Way {
    name: "svd",
    about: "the truncated singular value decomposition of the weights, as in the paper",
    method: Method::Svd,
    policy: &WeLore,
    storage: Storage::Factors,
    is_sequential: false,
};

static WHITENED: Way = Way {
    name: "whitened",
    about: "the smallest error on the inputs of a calibration",
    method: Method::Whitened,
    policy: &Energy,
    storage: Storage::Pivot,
    is_sequential: false,
};

static TWO_SIDED: Way = Way {
    name: "two-sided",
    about: "the smallest error on the inputs of a calibration, weighted by its gradients",
    method: Method::TwoSided,
    policy: &Loss,
    storage: Storage::Pivot,
    is_sequential: false,
};

static SEQUENTIAL: Way = Way {
    name: "sequential",
    about: "two-sided, block by block, in the order of use: each matrix corrects the errors of those \
            before it",
    is_sequential: true,
    ..TWO_SIDED
};

static BEST: Way =
    Way { name: "best", about: "the recommended method: the same as two-sided", ..TWO_SIDED };

static WAYS: [&Way; 5] = [&SVD, &WHITENED, &TWO_SIDED, &SEQUENTIAL, &BEST];

impl Named for &'static Way {
    fn all() -> &'static [Self] {
        &WAYS
    }

    fn name(&self) -> &'static str {
        self.name
    }

    fn about(&self) -> &'static str {
        self.about
    }
}

impl Way {
    /// The first way that uses a norm and is not sequential.
    pub fn of(method: Method) -> &'static Self {
        let plain = WAYS.iter().find(|way| way.method == method && !way.is_sequential);
        plain.copied().expect("every norm has a way")
    }
}
