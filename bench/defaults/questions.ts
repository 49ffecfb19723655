// Plain questions with answers that a program can recognise.

/** A question, and what a right answer contains. */
export interface Question {
  readonly text: string;
  readonly right: RegExp;
}

export const QUESTIONS: readonly Question[] = [
  { text: "What is the capital of France?", right: /\bparis\b/i },
  { text: "What is the capital of Japan?", right: /\btokyo\b/i },
  { text: "What is the capital of Italy?", right: /\brome\b/i },
  { text: "How many days are in a week?", right: /\b(7|seven)\b/i },
  { text: "How many months are in a year?", right: /\b(12|twelve)\b/i },
  { text: "How many legs does a spider have?", right: /\b(8|eight)\b/i },
  { text: "What is 2 plus 3?", right: /\b(5|five)\b/i },
  { text: "What is the opposite of hot?", right: /\bcold\b/i },
  { text: "What colour is the sky on a clear day?", right: /\bblue\b/i },
  { text: "What is the largest planet in the solar system?", right: /\bjupiter\b/i },
  { text: "What is the chemical formula of water?", right: /\bh(2|₂)o\b/i },
  { text: "Who wrote Romeo and Juliet?", right: /\bshakespeare\b/i },
  { text: "Who was the first president of the United States?", right: /\bwashington\b/i },
  { text: "In which direction does the sun rise?", right: /\beast\b/i },
  { text: "Which language is spoken in Brazil?", right: /\bportuguese\b/i },
  { text: "What is frozen water called?", right: /\bice\b/i },
  { text: "Which month comes after March?", right: /\bapril\b/i },
  { text: "At how many degrees Celsius does water boil?", right: /\b100\b/ },
  { text: "What is the fastest land animal?", right: /\bcheetahs?\b/i },
  { text: "Which ocean lies between Europe and America?", right: /\batlantic\b/i },
];
