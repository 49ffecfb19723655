const DATE = '[0-9]{4} "-" ("0" [1-9] | "1" [0-2]) "-" ("0" [1-9] | "1" [0-9] | "2" [0-8])';
const CLOCK = '("0" [0-9] | "1" [0-9] | "2" [0-3]) ":" [0-5] [0-9]';
const TIME = `${CLOCK} ":" [0-5] [0-9] ("." [0-9]{1,6})? ("Z" | [+-] ${CLOCK})`;
const LABEL = "[a-z0-9] ([a-z0-9-]{0,20} [a-z0-9])?";
const BYTE = '("25" [0-5] | "2" [0-4] [0-9] | "1" [0-9] [0-9] | [1-9] [0-9] | [0-9])';
const HEX = "[0-9a-fA-F]";

/** Grammars of strings' formats, without their quotes. Of each they allow a part that is plainly valid: days to the 28th. */
export const FORMATS: Readonly<Record<string, string>> = {
  date: DATE,
  time: TIME,
  "date-time": `${DATE} "T" ${TIME}`,
  uuid: `${HEX}{8} "-" ${HEX}{4} "-" ${HEX}{4} "-" ${HEX}{4} "-" ${HEX}{12}`,
  ipv4: `${BYTE} ("." ${BYTE}){3}`,
  ipv6: `${HEX}{1,4} (":" ${HEX}{1,4}){7}`,
  hostname: `${LABEL} ("." ${LABEL}){0,4}`,
  email: `[A-Za-z0-9_+-]{1,20} ("." [A-Za-z0-9_+-]{1,20}){0,2} "@" ${LABEL} ("." ${LABEL}){1,3}`,
  uri: `("http" "s"? | "ftp") "://" ${LABEL} ("." ${LABEL}){0,3} (":" [1-9] [0-9]{0,3})? ("/" [A-Za-z0-9._~-]*)* ("?" [A-Za-z0-9._~=&-]*)? ("#" [A-Za-z0-9._~-]*)?`,
};
