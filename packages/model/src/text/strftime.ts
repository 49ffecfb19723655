// English names whatever the machine's locale is: templates were written against Python's default.
const MONTHS = "January February March April May June July August September October November December".split(" ");
const WEEKDAYS = "Sunday Monday Tuesday Wednesday Thursday Friday Saturday".split(" ");

/** Formats `date` in local time with the directives of C's strftime that chat templates use; others stay. */
export function strftime(date: Date, format: string): string {
  return format.replaceAll(/%(-?)([a-zA-Z%])/g, (text, flag: string, directive: string) => {
    const value = field(date, directive);
    if (typeof value !== "number") return value ?? text;
    return flag === "-" || directive === "Y" ? String(value) : String(value).padStart(2, "0");
  });
}

function field(date: Date, directive: string): number | string | undefined {
  const month = MONTHS[date.getMonth()];
  const weekday = WEEKDAYS[date.getDay()];
  switch (directive) {
    case "Y":
      return date.getFullYear();
    case "y":
      return date.getFullYear() % 100;
    case "m":
      return date.getMonth() + 1;
    case "d":
      return date.getDate();
    case "H":
      return date.getHours();
    case "I":
      return date.getHours() % 12 || 12;
    case "M":
      return date.getMinutes();
    case "S":
      return date.getSeconds();
    case "p":
      return date.getHours() < 12 ? "AM" : "PM";
    case "B":
      return month;
    case "b":
      return month?.slice(0, 3);
    case "A":
      return weekday;
    case "a":
      return weekday?.slice(0, 3);
    case "%":
      return "%";
    default:
      return undefined;
  }
}
