//! The methods of compression: what goes with what.

use welore_burn::forms::Storage;
use welore_burn::named::Named;
use welore_burn::plan::{Energy, Loss, RankPolicy, WeLore};
use welore_burn::spectrum::Method;

/// A way to compress, with the policy and the storage that go with it.
#[derive(Debug)]
pub struct Way {
    /// Its name.
    pub name: &'static str,
    /// One line on what it is.
    about: &'static str,
    /// The norm that its factors are best in.
    pub method: Method,
    /// How ranks are chosen, unless told otherwise.
    pub policy: &'static dyn RankPolicy,
    /// How low-rank matrices are stored, unless told otherwise.
    pub storage: Storage,
    /// Whether each block is compressed for what the compressed blocks before it compute.
    pub is_sequential: bool,
}

/// Ways differ by their names.
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
    about: "the smallest error for the inputs of a calibration",
    method: Method::Whitened,
    policy: &Energy,
    storage: Storage::Pivot,
    is_sequential: false,
};

static TWO_SIDED: Way = Way {
    name: "two-sided",
    about: "the smallest error for the inputs and the gradients of a calibration",
    method: Method::TwoSided,
    policy: &Loss,
    storage: Storage::Pivot,
    is_sequential: false,
};

static SEQUENTIAL: Way = Way {
    name: "sequential",
    about: "the same block by block, each for what the compressed blocks before it compute",
    is_sequential: true,
    ..TWO_SIDED
};

static BEST: Way = Way {
    name: "best",
    about: "the recommended method: two-sided, with the policy and the storage that go with it",
    ..TWO_SIDED
};

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
    /// The way of a norm without anything further.
    pub fn of(method: Method) -> &'static Self {
        let plain = WAYS.iter().find(|way| way.method == method && !way.is_sequential);
        plain.copied().expect("every norm has a way")
    }
}
