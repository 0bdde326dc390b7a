//! The functions that tell who is asking. Each is made for one principal and one statement; a session cannot set them.

use std::collections::BTreeSet;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, ListBuilder, StringArray, StringBuilder, new_null_array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field};
use datafusion::common::ScalarValue;
use datafusion::common::cast::as_string_array;
use datafusion::error::Result;
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};
use lazaret_auth::{AccessReader, Authority, Principal, PrincipalName};

/// `current_user`, `session_user`, `has_role`, `is_member`, `claim` and `claims` of the one who asks.
pub fn identity_functions(reader: &dyn AccessReader, authority: &Authority) -> Vec<ScalarUDF> {
    let identity = Arc::new(Identity {
        name: authority.name().clone(),
        roles: authority.active_roles().iter().filter_map(|role| reader.role_name(*role)).collect(),
        principal: authority.principal().cloned(),
    });
    let function = |question| ScalarUDF::new_from_impl(IdentityFunction::new(question, Arc::clone(&identity)));
    Question::EVERY.into_iter().map(function).collect()
}

/// What the functions know.
#[derive(Debug)]
struct Identity {
    name: PrincipalName,
    /// Names of the active roles.
    roles: BTreeSet<String>,
    principal: Option<Arc<Principal>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Question {
    CurrentUser,
    SessionUser,
    HasRole,
    IsMember,
    Claim,
    Claims,
}

impl Question {
    const EVERY: [Self; 6] = [Self::CurrentUser, Self::SessionUser, Self::HasRole, Self::IsMember, Self::Claim, Self::Claims];
}

#[derive(Debug)]
struct IdentityFunction {
    question: Question,
    identity: Arc<Identity>,
    signature: Signature,
}

impl IdentityFunction {
    fn new(question: Question, identity: Arc<Identity>) -> Self {
        // Stable: the same for all of a statement, so that calls on literals become literals when it is planned.
        let signature = match question {
            Question::CurrentUser | Question::SessionUser => Signature::nullary(Volatility::Stable),
            _ => Signature::string(1, Volatility::Stable),
        };
        Self { question, identity, signature }
    }

    fn answer(&self, names: &StringArray) -> ArrayRef {
        let identity = &self.identity;
        match self.question {
            Question::CurrentUser | Question::SessionUser => {
                Arc::new(StringArray::from_iter_values(std::iter::repeat_n(identity.name.to_string(), names.len())))
            }
            Question::HasRole => {
                Arc::new(names.iter().map(|name| name.map(|name| identity.roles.contains(name))).collect::<BooleanArray>())
            }
            Question::IsMember => {
                let is_member = |name| identity.principal.as_ref().is_some_and(|principal| principal.is_member(name));
                Arc::new(names.iter().map(|name| name.map(is_member)).collect::<BooleanArray>())
            }
            Question::Claim => {
                let claim = |name| identity.principal.as_ref().and_then(|principal| principal.claim(name));
                Arc::new(names.iter().map(|name| name.and_then(claim)).collect::<StringArray>())
            }
            Question::Claims => {
                let mut lists = ListBuilder::new(StringBuilder::new());
                for name in names {
                    let principal = identity.principal.as_ref();
                    let values = name.zip(principal).map(|(name, principal)| principal.claim_list(name)).unwrap_or_default();
                    lists.append_value(values.into_iter().map(Some));
                }
                Arc::new(lists.finish())
            }
        }
    }
}

/// Who the answer is for is part of the function: plans of two principals are never equal.
impl PartialEq for IdentityFunction {
    fn eq(&self, other: &Self) -> bool {
        let (a, b) = (&self.identity, &other.identity);
        let same_claims = match (&a.principal, &b.principal) {
            (None, None) => true,
            (Some(a), Some(b)) => Arc::ptr_eq(a, b) || (a.claims == b.claims && a.groups == b.groups),
            _ => false,
        };
        self.question == other.question && a.name == b.name && a.roles == b.roles && same_claims
    }
}

impl Eq for IdentityFunction {}

impl Hash for IdentityFunction {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.question.hash(state);
        self.identity.name.hash(state);
        self.identity.roles.hash(state);
    }
}

impl ScalarUDFImpl for IdentityFunction {
    fn name(&self) -> &str {
        match self.question {
            Question::CurrentUser => "current_user",
            Question::SessionUser => "session_user",
            Question::HasRole => "has_role",
            Question::IsMember => "is_member",
            Question::Claim => "claim",
            Question::Claims => "claims",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> Result<DataType> {
        Ok(match self.question {
            Question::CurrentUser | Question::SessionUser | Question::Claim => DataType::Utf8,
            Question::HasRole | Question::IsMember => DataType::Boolean,
            Question::Claims => DataType::List(Arc::new(Field::new_list_field(DataType::Utf8, true))),
        })
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let (names, is_scalar) = match args.args.first() {
            None => (new_null_array(&DataType::Utf8, 1), true),
            Some(ColumnarValue::Scalar(name)) => (name.to_array()?, true),
            Some(ColumnarValue::Array(names)) => (Arc::clone(names), false),
        };
        let answer = self.answer(as_string_array(&cast(&names, &DataType::Utf8)?)?);
        if is_scalar { Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&answer, 0)?)) } else { Ok(ColumnarValue::Array(answer)) }
    }
}
