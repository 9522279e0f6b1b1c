//! Choices that have a name.

/// A choice that people type, and files store, by its name: a policy, a training method, a form
/// of storage.
pub trait Named: Copy + 'static {
    /// Every choice, in the order in which help and documents list them.
    fn all() -> &'static [Self];

    /// The name, in lower case with hyphens.
    fn name(&self) -> &'static str;

    /// A one-line description for people.
    fn about(&self) -> &'static str;

    /// The choice of this name.
    fn named(name: &str) -> Option<Self> {
        Self::all().iter().find(|choice| choice.name() == name).copied()
    }
}

/// Implements [`Named`] for an enum without fields, and reads and writes it by its names.
macro_rules! named {
    ($type:ty { $($variant:ident => $name:literal, $about:literal;)+ }) => {
        impl $crate::named::Named for $type {
            fn all() -> &'static [Self] {
                &[$(Self::$variant),+]
            }

            fn name(&self) -> &'static str {
                match self {
                    $(Self::$variant => $name),+
                }
            }

            fn about(&self) -> &'static str {
                match self {
                    $(Self::$variant => $about),+
                }
            }
        }

        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str($crate::named::Named::name(self))
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(source: D) -> Result<Self, D::Error> {
                let name = <std::borrow::Cow<'de, str>>::deserialize(source)?;
                $crate::named::Named::named(&name).ok_or_else(|| {
                    serde::de::Error::unknown_variant(&name, &[$($name),+])
                })
            }
        }
    };
}

pub(crate) use named;
