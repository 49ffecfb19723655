/** The longest time that timers know. */
export const MAX_TIMER_MS: number = 2 ** 31 - 1;
