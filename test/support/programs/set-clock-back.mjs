// Preloaded: at SIGUSR2 the wall clock is set back by a day, as an operator or a time server may do.
let shiftMs = 0;
const Real = Date;
globalThis.Date = class Date extends Real {
  constructor(...parts) {
    if (parts.length === 0) super(Real.now() - shiftMs);
    else super(...parts);
  }
  static now() {
    return Real.now() - shiftMs;
  }
};
process.on("SIGUSR2", () => (shiftMs = 86_400_000));
