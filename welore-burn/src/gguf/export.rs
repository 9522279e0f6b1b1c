//! From a model directory to a GGUF file.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use super::architectures::{self, Known};
use super::error::GgufError;
use super::metadata;
use super::names::{Entry, Part, entries};
use super::rope::stored_divisors;
use super::row_order::RowOrder;
use super::source::{CheckpointSource, GgufTensor, TensorSource};
use super::tensors::shifted;
use super::tokenizer::{describe_tokenizer, file_name};
use crate::checkpoint::check_companions;
use crate::ggml::{GgufLayout, GgufTensorSpec, GgufWriter, TensorType, Value, WrittenType};
use crate::model::OpenedModel;
use crate::progress::Progress;
use crate::workers::Budget;

/// How a GGUF file is written. Vectors, such as norms and biases, and learned positions are F32 whatever
/// is chosen, as llama.cpp wants them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GgufOptions {
    /// The model's name, which llama.cpp shows. If it contains `phi-3` or `phi3`, special tokens take
    /// the spaces after them in llama.cpp. So the names of models with such tokens get it, and other
    /// models that have it in their names are written without a name.
    pub name: Option<String>,
    /// The type of the projections; `None` for the type that each has in the directory. Experts in
    /// MXFP4 then stay as they are.
    pub projections: Option<TensorType>,
    /// The type of embedding and head; `None` for the type that each has in the directory.
    pub embedding: Option<TensorType>,
    /// The types of single tensors, by their names in the model directory. They come first. The same
    /// matrix of all experts of a layer is one tensor in the file, so it has one type.
    pub tensors: BTreeMap<String, TensorType>,
}

/// What a GGUF file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GgufWritten {
    /// Its architecture, such as `llama`.
    pub architecture: String,
    /// How many tensors of each type it has.
    pub types: BTreeMap<WrittenType, usize>,
    /// Number of parameters in all tensors.
    pub parameters: u64,
    /// Bytes of the whole file.
    pub bytes: u64,
    /// What llama.cpp does not do quite as the model does, one sentence each.
    pub remarks: Vec<String>,
}

/// A GGUF file that is about to be written: all of it is known but the entries of its tensors.
#[derive(Debug)]
pub struct GgufExport<'a> {
    opened: &'a OpenedModel,
    architecture: Known,
    layout: GgufLayout,
    /// The divisors of rotary frequencies, if there are any, by their names. They come first.
    divisors: Vec<(&'static str, Vec<u8>)>,
    tensors: Vec<Outgoing>,
}

/// A tensor of the model in both formats.
#[derive(Debug)]
struct Outgoing {
    gguf: String,
    order: RowOrder,
    /// Added to each entry.
    shift: f32,
    /// Which part of the file's tensor it is, if not all of it.
    part: Option<Part>,
    tensor: GgufTensor,
}

impl Outgoing {
    fn parameters(&self) -> u64 {
        self.tensor.shape.iter().map(|side| *side as u64).product()
    }

    /// The file's tensor, unless another part of it comes before.
    fn spec(&self) -> Option<GgufTensorSpec> {
        let Self { gguf, part, tensor, .. } = self;
        let (name, dtype) = (gguf.clone(), tensor.dtype);
        let shape = Part::whole(*part, &tensor.shape);
        Part::is_first(*part).then_some(GgufTensorSpec { name, shape, dtype })
    }
}

/// Writes a model directory, dense or compressed, as a GGUF file for llama.cpp. It appears at `path`
/// when it is complete, in place of a file that was there. One tensor at a time is in memory.
///
/// # Errors
///
/// Those of [`GgufExport::new`] and [`GgufExport::write`].
pub fn export_gguf(
    opened: &OpenedModel,
    path: impl AsRef<Path>,
    options: &GgufOptions,
    progress: &mut dyn Progress,
) -> Result<GgufWritten, GgufError> {
    let source = CheckpointSource::new(opened);
    GgufExport::new(opened, options)?.write(path, &source, progress)
}

impl<'a> GgufExport<'a> {
    /// Lays out the file. Reads the tokenizer, but no weights.
    ///
    /// # Errors
    ///
    /// [`GgufError::Unsupported`] for a model or a tokenizer that llama.cpp does not have,
    /// [`GgufError::Choice`] for a type that a tensor cannot have or for a tensor that does not
    /// exist, [`GgufError::Oversized`] for a matrix that this machine cannot multiply together,
    /// [`GgufError::Checkpoint`] for a link that leads out of the directory, and for integers.
    pub fn new(opened: &'a OpenedModel, options: &GgufOptions) -> Result<Self, GgufError> {
        let (config, dir) = (&opened.config, opened.checkpoint.dir());
        let wrong = |reason| GgufError::Unsupported { path: dir.into(), reason };
        let architecture = architectures::of(config, &opened.model_type).map_err(wrong)?;
        // The file may be published, with what links in the directory lead to.
        check_companions(dir)?;
        check_memory(opened)?;
        let tensors = outgoing(opened, architecture, options)?;
        let most = type_of_most(&tensors);
        let (tokenizer, is_phi3) = describe_tokenizer(dir, config)?;
        let name = file_name(options.name.as_deref(), is_phi3);
        let name = name.as_deref();
        let mut entries = metadata::describe(config, architecture, name, most).map_err(wrong)?;
        entries.extend(tokenizer);
        let divisors = stored_divisors(config).map_err(wrong)?;
        let first = divisors.iter().map(|(name, divisors)| GgufTensorSpec {
            name: (*name).into(),
            shape: vec![divisors.len()],
            dtype: TensorType::F32.into(),
        });
        let others = tensors.iter().filter_map(Outgoing::spec);
        let specs: Vec<GgufTensorSpec> = first.chain(others).collect();
        let entries: HashMap<String, Value> = entries.into_iter().collect();
        let layout = GgufLayout::new(&entries, &specs)?;
        let as_bytes = |(name, divisors): (&'static str, Vec<f32>)| {
            let bytes = divisors.iter().flat_map(|divisor| divisor.to_le_bytes());
            (name, bytes.collect::<Vec<u8>>())
        };
        let divisors = divisors.into_iter().map(as_bytes).collect();
        Ok(Self { opened, architecture, layout, divisors, tensors })
    }

    /// The tensors of the model, in the order in which they are written: of a tensor of all experts
    /// the matrix of each.
    pub fn tensors(&self) -> impl Iterator<Item = &GgufTensor> {
        self.tensors.iter().map(|outgoing| &outgoing.tensor)
    }

    /// Bytes of the file without the tensors of these names, and without the padding behind them. A
    /// tensor of all experts has the name of the matrix of the first one.
    pub fn bytes_without(&self, is_left_out: impl Fn(&str) -> bool) -> u64 {
        let whole = self.tensors.iter().filter(|outgoing| Part::is_first(outgoing.part));
        let left_out = whole.filter(|outgoing| is_left_out(&outgoing.tensor.name));
        let bytes = left_out.map(|outgoing| self.layout.bytes_of(&outgoing.gguf));
        self.layout.bytes() - bytes.sum::<u64>()
    }

    /// What the file will hold.
    pub fn summary(&self) -> GgufWritten {
        let mut types = BTreeMap::new();
        for outgoing in self.tensors.iter().filter(|outgoing| Part::is_first(outgoing.part)) {
            *types.entry(outgoing.tensor.dtype).or_insert(0) += 1;
        }
        GgufWritten {
            architecture: self.architecture.name().into(),
            types,
            parameters: self.tensors.iter().map(Outgoing::parameters).sum(),
            bytes: self.layout.bytes(),
            remarks: self.remarks(),
        }
    }

    /// What llama.cpp does not do quite as the model does.
    fn remarks(&self) -> Vec<String> {
        let config = &self.opened.config;
        let own = self.architecture.remark(config);
        own.into_iter().chain(metadata::window_remark(config, self.architecture)).collect()
    }

    /// Writes the file. It appears at `path` when it is complete, in place of a file that was there.
    ///
    /// # Errors
    ///
    /// [`GgufError`], such as those of the source, [`CheckpointError::Encoding`] for a number that
    /// is too large for its type, and [`GgufError::Interrupted`].
    ///
    /// # Panics
    ///
    /// If the source gives a tensor another number of bytes than its type takes.
    ///
    /// [`CheckpointError::Encoding`]: crate::checkpoint::CheckpointError::Encoding
    pub fn write(
        &self,
        path: impl AsRef<Path>,
        source: &dyn TensorSource,
        progress: &mut dyn Progress,
    ) -> Result<GgufWritten, GgufError> {
        self.tensors().try_for_each(|tensor| source.check(tensor))?;
        let mut file = GgufWriter::create(path.as_ref(), &self.layout)?;
        progress.begin("converting", self.tensors.len());
        for (name, divisors) in &self.divisors {
            file.write(name, divisors)?;
        }
        for Outgoing { gguf, order, shift, tensor, .. } in &self.tensors {
            progress.step(&tensor.name)?;
            let data: Cow<'_, [u8]> = source.bytes(tensor, progress)?;
            let data = if *shift == 0.0 { data } else { Cow::Owned(shifted(&data, *shift)) };
            file.append(gguf, &order.to_file(data, &tensor.shape))?;
            source.release(tensor);
        }
        self.opened.checkpoint.check_unchanged()?;
        file.finish()?;
        Ok(self.summary())
    }
}

/// Small factors can describe a matrix that no memory holds.
fn check_memory(opened: &OpenedModel) -> Result<(), GgufError> {
    let needs = opened
        .compressed
        .iter()
        .map(|matrix| (matrix.name.as_str(), matrix.form.cost_to_merge(matrix.shape).bytes));
    Ok(Budget::default().check(needs)?)
}

/// The tensors of a model, with the types that are chosen for them.
fn outgoing(
    opened: &OpenedModel,
    architecture: Known,
    options: &GgufOptions,
) -> Result<Vec<Outgoing>, GgufError> {
    let stored = CheckpointSource::new(opened);
    let mut unknown = options.tensors.clone();
    let mut tensors = Vec::new();
    for entry in entries(&opened.config, architecture) {
        let own = unknown.remove(&entry.name);
        let of_its_kind =
            if entry.is_of_tokens() { options.embedding } else { options.projections };
        let dtype: WrittenType = match (entry.is_f32(), own, own.or(of_its_kind)) {
            (true, None | Some(TensorType::F32), _) => TensorType::F32.into(),
            (true, Some(_), _) => {
                let what = match (entry.is_vector(), entry.is_norm(), entry.is_router()) {
                    (true, ..) => "a vector",
                    (_, true, _) => "a norm",
                    (.., true) => "a router",
                    _ => "a table of positions",
                };
                let reason = format!("is {what}, and llama.cpp wants those in f32");
                return Err(GgufError::Choice { tensor: entry.name, reason });
            }
            (false, _, Some(dtype)) => dtype.into(),
            (false, _, None) => stored.stored_type(&entry.name)?,
        };
        let Entry { gguf, name, shape, order, shift, part } = entry;
        let tensor = GgufTensor { name, shape, dtype };
        tensors.push(Outgoing { gguf, order, shift, part, tensor });
    }
    give_stacks_one_type(&mut tensors, &options.tensors)?;
    match unknown.into_keys().next() {
        Some(tensor) => {
            let reason = "is not one of the model, but a type was chosen for it".into();
            Err(GgufError::Choice { tensor, reason })
        }
        None => Ok(tensors),
    }
}

/// Gives all parts of a tensor of experts one type: F32 where the directory has several. Other ones
/// cannot be chosen.
fn give_stacks_one_type(
    tensors: &mut [Outgoing],
    chosen: &BTreeMap<String, TensorType>,
) -> Result<(), GgufError> {
    for stack in tensors.chunk_by_mut(|one, next| one.gguf == next.gguf) {
        let first = stack[0].tensor.dtype;
        let Some(other) = stack.iter().find(|part| part.tensor.dtype != first) else { continue };
        if stack.iter().any(|part| chosen.contains_key(&part.tensor.name)) {
            let (one, another) = (first.name(), other.tensor.dtype.name());
            let reason = format!(
                "is to be {another}, and that of the first expert {one}, but they are one tensor"
            );
            return Err(GgufError::Choice { tensor: other.tensor.name.clone(), reason });
        }
        stack.iter_mut().for_each(|part| part.tensor.dtype = TensorType::F32.into());
    }
    Ok(())
}

/// The type that most entries have.
fn type_of_most(tensors: &[Outgoing]) -> WrittenType {
    let mut entries: BTreeMap<WrittenType, u64> = BTreeMap::new();
    for outgoing in tensors {
        *entries.entry(outgoing.tensor.dtype).or_insert(0) += outgoing.parameters();
    }
    let most = entries.into_iter().max_by_key(|(_, count)| *count);
    most.map_or(TensorType::F32.into(), |(dtype, _)| dtype)
}
