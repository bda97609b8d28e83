//! [`Id`] as a TEXT column.

use sqlx::any::{Any, AnyTypeInfo, AnyValueRef};
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::{Decode, Encode, Type};

use crate::model::Id;

impl Type<Any> for Id {
    fn type_info() -> AnyTypeInfo {
        <String as Type<Any>>::type_info()
    }
    fn compatible(ty: &AnyTypeInfo) -> bool {
        <String as Type<Any>>::compatible(ty)
    }
}

impl<'r> Decode<'r, Any> for Id {
    fn decode(value: AnyValueRef<'r>) -> Result<Id, BoxDynError> {
        let text = <&str as Decode<'r, Any>>::decode(value)?;
        Ok(text.parse()?)
    }
}

impl<'q> Encode<'q, Any> for Id {
    fn encode_by_ref(&self, buf: &mut <Any as sqlx::Database>::ArgumentBuffer) -> Result<IsNull, BoxDynError> {
        <String as Encode<'q, Any>>::encode(self.to_string(), buf)
    }
}
