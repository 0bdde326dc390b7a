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
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};
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
/// Whether a call asks who is asking, about literals: it is folded when the statement is planned.
pub(crate) fn is_identity_function(call: &ScalarFunction) -> bool {
    call.func.inner().downcast_ref::<IdentityFunction>().is_some() && call.args.iter().all(|arg| matches!(arg, Expr::Literal(..)))
}

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

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use std::collections::BTreeMap;

    use datafusion::prelude::SessionContext;
    use lazaret_auth::{CredentialKind, GrantId, Grantee, GroupName, RoleId};

    use super::*;
    use crate::governed::lab::lines;
    use crate::meta::{Entity, Role, RoleGrant, State};

    fn principal(subject: &str) -> Principal {
        let claims =
            serde_json::json!({"sub": subject, "region": "PT-11", "regions": ["a", "b", 3], "age": 40, "nested": {"a": 1}, "none": null});
        Principal {
            name: PrincipalName::new("hospital", subject),
            groups: [GroupName { issuer: "hospital".to_owned(), group: "analysts".to_owned() }].into(),
            claims: claims.as_object().unwrap().clone(),
            credential: CredentialKind::ForeignToken,
            token_id: None,
            expires_at: None,
        }
    }

    fn functions(subject: &str) -> Vec<ScalarUDF> {
        let role = RoleId::generate();
        let group = GroupName { issuer: "hospital".to_owned(), group: "analysts".to_owned() };
        let state = State::build(
            1,
            vec![
                Entity::Role(Role { id: role, name: "national".to_owned() }),
                Entity::Role(Role { id: RoleId::generate(), name: "other".to_owned() }),
                Entity::RoleGrant(RoleGrant {
                    id: GrantId::generate(),
                    role,
                    grantee: Grantee::Group(group),
                    grantor: PrincipalName::local("admin"),
                }),
            ],
        )
        .unwrap();
        let authority = Authority::of(&state, Arc::new(principal(subject)));
        identity_functions(&state, &authority)
    }

    #[tokio::test]
    async fn they_tell_who_is_asking() {
        let context = SessionContext::new();
        for function in functions("ada") {
            context.register_udf(function);
        }
        context.sql("CREATE TABLE n AS VALUES ('national'), ('other'), (NULL), ('analysts')").await.unwrap();
        let expected: BTreeMap<&str, &str> = BTreeMap::from([
            ("SELECT \"current_user\"() AS a, \"session_user\"() AS b", "|hospital:ada|hospital:ada|"),
            ("SELECT has_role('national') AS a, has_role('other') AS b, has_role('National') AS c", "|true|false|false|"),
            ("SELECT is_member('analysts') AS a, is_member('hospital:analysts') AS b, is_member('x:analysts') AS c", "|true|true|false|"),
            ("SELECT claim('sub') AS a, claim('region') AS b, claim('age') AS c", "|ada|PT-11|40|"),
            ("SELECT claim('missing') IS NULL AS a, claim('regions') IS NULL AS b, claim('nested') IS NULL AS c", "|true|true|true|"),
            (
                "SELECT claims('regions') AS a, claims('region') AS b, claims('missing') AS c, claims(NULL) AS d",
                "|[a, b, 3]|[PT-11]|[]|[]|",
            ),
            ("SELECT has_role(NULL) IS NULL AS a, claim(NULL) IS NULL AS b", "|true|true|"),
            ("SELECT count(*) AS a FROM n WHERE has_role(column1) AND NOT is_member(column1)", "|1|"),
        ]);
        for (sql, expected) in expected {
            let frame = context.sql(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
            let rows = lines(&frame.collect().await.unwrap());
            assert!(rows.contains(&expected.to_owned()), "{sql}: {rows:?}");
        }
        let plan = context.sql("SELECT * FROM n WHERE column1 = claim('region') OR has_role('other')").await.unwrap();
        let plan = plan.into_optimized_plan().unwrap().to_string();
        assert!(plan.contains("PT-11") && !plan.contains("claim") && !plan.contains("has_role"), "they become literals: {plan}");
    }

    #[test]
    fn two_principals_never_have_the_same_function() {
        let (ada, again, bob) = (functions("ada"), functions("ada"), functions("bob"));
        for ((ada, again), bob) in ada.iter().zip(&again).zip(&bob) {
            assert_eq!(ada, again);
            assert_ne!(ada, bob);
        }
    }
}
