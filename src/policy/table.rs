//! Turns the table of policies into what holds, reads, describes and dispatches them.

/// One line for each policy: its name in the file, and where its type is.
macro_rules! policies {
    ($($kind:ident => $name:ident),+ $(,)?) => {
        /// What a policy takes in the file, by kind.
        #[derive(Clone, Debug)]
        pub enum AnyConfig {
            $(
                #[doc = concat!("The `", stringify!($kind), "` policy.")]
                $name(Box<<$kind::$name as Policy>::Config>),
            )+
        }

        /// The kinds of policy, as written in the file.
        pub const KINDS: &[&str] = &[$(stringify!($kind)),+];

        impl AnyConfig {
            /// The name of the policy in the file.
            pub const fn kind(&self) -> &'static str {
                match self { $(Self::$name(_) => stringify!($kind),)+ }
            }

            /// Whether the policy ever refuses a request.
            pub(crate) const fn refuses(&self) -> bool {
                match self { $(Self::$name(_) => <$kind::$name as Policy>::REFUSES,)+ }
            }

            /// Whether the policy finds out who is calling.
            pub(crate) const fn authenticates(&self) -> bool {
                match self { $(Self::$name(_) => matches!(<$kind::$name as Policy>::STAGE, Stage::Authenticate),)+ }
            }

            fn read<'de, A: de::MapAccess<'de>>(kind: &str, map: &mut A) -> Result<Self, A::Error> {
                match kind {
                    $(stringify!($kind) => map.next_value().map(|config| Self::$name(Box::new(config))),)+
                    _ => Err(de::Error::unknown_field(kind, ENTRY_KEYS)),
                }
            }

            pub(crate) fn check(&self, check: &mut Check<'_>) {
                match self { $(Self::$name(config) => <$kind::$name as Policy>::check(config, check),)+ }
            }

            pub(crate) fn secrets(&self, secrets: &mut Secrets) {
                match self { $(Self::$name(config) => <$kind::$name as Policy>::secrets(config, secrets),)+ }
            }

            pub(crate) fn upstreams(&self) -> Vec<(Vec<Step>, &Name)> {
                match self { $(Self::$name(config) => <$kind::$name as Policy>::upstreams(config),)+ }
            }

            pub(crate) fn answers(&self) -> Vec<Answered> {
                match self { $(Self::$name(config) => <$kind::$name as Policy>::answers(config),)+ }
            }

            fn compile(&self, build: &mut Build<'_>) -> Result<Compiled, String> {
                Ok(match self {
                    $(Self::$name(config) => Compiled::$name(<$kind::$name as Policy>::compile(config, build)?),)+
                })
            }
        }

        /// The keys of an entry in `policies`.
        const ENTRY_KEYS: &[&str] = &["mode", $(stringify!($kind)),+];

        fn entry_schemas(generator: &mut SchemaGenerator) -> Vec<Schema> {
            vec![$({
                let config = generator.subschema_for::<<$kind::$name as Policy>::Config>();
                let mode = generator.subschema_for::<Mode>();
                json_schema!({
                    "type": "object",
                    "properties": { (stringify!($kind)): config, "mode": mode },
                    "required": [stringify!($kind)],
                    "additionalProperties": false,
                })
            }),+]
        }

        /// A policy ready to run: an enum, so that a call is neither boxed nor virtual.
        #[derive(Debug)]
        enum Compiled {
            $($name($kind::$name),)+
        }

        impl Compiled {
            fn stage(&self) -> Stage {
                match self { $(Self::$name(policy) => policy.stage(),)+ }
            }

            fn evidence(&self) -> Vec<String> {
                match self { $(Self::$name(policy) => policy.evidence(),)+ }
            }

            async fn on_request(
                &self,
                request: &mut RequestHeader,
                ctx: &mut Context,
            ) -> Result<Flow, Reject> {
                match self { $(Self::$name(policy) => policy.on_request(request, ctx).await,)+ }
            }

            fn on_response(&self, response: &mut ResponseHeader, ctx: &mut Context) {
                match self { $(Self::$name(policy) => policy.on_response(response, ctx),)+ }
            }
        }
    };
}
