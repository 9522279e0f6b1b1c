//! [`Decoder`] as a module of Burn. Written out, not derived, because its parts have the names of
//! files, which differ between families.

use std::fmt;

use burn::module::{
    Content, Devices, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor,
};
use burn::tensor::Device;

use super::decoder::Decoder;
use super::names::Named;

/// Burn's name for the type that holds the parts.
const CONTAINER: &str = "Struct:Decoder";

impl Module for Decoder {
    fn collect_devices(&self, devices: Devices) -> Devices {
        self.lm_head.collect_devices(self.model.collect_devices(devices))
    }

    fn fork(self, device: &Device) -> Self {
        let (model, lm_head) = (self.model.fork(device), self.lm_head.fork(device));
        Self { model, lm_head, ..self }
    }

    fn to_device(self, device: &Device) -> Self {
        let (model, lm_head) = (self.model.to_device(device), self.lm_head.to_device(device));
        Self { model, lm_head, ..self }
    }

    fn train(self) -> Self {
        let (model, lm_head) = (self.model.train(), self.lm_head.train());
        Self { model, lm_head, ..self }
    }

    fn valid(&self) -> Self {
        let (model, lm_head) = (self.model.valid(), self.lm_head.valid());
        Self {
            model,
            lm_head,
            names: self.names,
            logit_scale: self.logit_scale,
            logit_cap: self.logit_cap,
        }
    }

    fn materialize(self) -> Self {
        let (model, lm_head) = (self.model.materialize(), self.lm_head.materialize());
        Self { model, lm_head, ..self }
    }

    fn num_params(&self) -> usize {
        Module::num_params(&self.model) + Module::num_params(&self.lm_head)
    }

    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        let mut named = Named { names: self.names, inner: visitor };
        named.enter_module("model", CONTAINER);
        self.model.visit(&mut named);
        named.exit_module("model", CONTAINER);
        named.enter_module("lm_head", CONTAINER);
        self.lm_head.visit(named.inner);
        named.exit_module("lm_head", CONTAINER);
    }

    fn map<M: ModuleMapper>(self, mapper: &mut M) -> Self {
        let mut named = Named { names: self.names, inner: mapper };
        named.enter_module("model", CONTAINER);
        let model = Module::map(self.model, &mut named);
        named.exit_module("model", CONTAINER);
        named.enter_module("lm_head", CONTAINER);
        // `Option` has a `map` of its own.
        let lm_head = Module::map(self.lm_head, named.inner);
        named.exit_module("lm_head", CONTAINER);
        Self { model, lm_head, ..self }
    }
}

impl ModuleDisplayDefault for Decoder {
    fn content(&self, content: Content) -> Option<Content> {
        content
            .set_top_level_type("Decoder")
            .add("model", &self.model)
            .add("lm_head", &self.lm_head)
            .optional()
    }

    fn num_params(&self) -> usize {
        Module::num_params(self)
    }
}

impl ModuleDisplay for Decoder {}

impl fmt::Display for Decoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&ModuleDisplay::format(self, Default::default()))
    }
}
