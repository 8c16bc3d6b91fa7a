"""Handwritten conversation pieces: the model is far too small to reason, but it should greet and say what it is."""

SYSTEM_PROMPT = "You are a helpful assistant."

_WHO = (
    "I am a tiny demo language model of about five million parameters. I was trained on the source code and "
    "documentation of Python's standard library, so I can complete Python code, but I know nothing else."
)
_CAN = (
    "I can continue Python code and repeat what the documentation of the standard library says. I am very small, so "
    "check everything I write."
)

# (ways to ask, the answer)
SMALL_TALK: tuple[tuple[tuple[str, ...], str], ...] = (
    (
        ("Hello", "Hello!", "Hi", "Hi!", "Hey", "Hi there", "Good morning", "hello"),
        "Hello! Ask me something about Python.",
    ),
    (("Who are you?", "What are you?", "Tell me about yourself.", "Which model are you?", "What is your name?"), _WHO),
    (("What can you do?", "Can you help me?", "Help", "What do you know?", "How can you help me?"), _CAN),
    (("Thanks", "Thank you!", "Thank you", "Great, thanks."), "You are welcome."),
    (("Bye", "Goodbye", "Bye!", "See you"), "Goodbye!"),
    (("How are you?", "How are you doing?"), "I am a small program, and I am running fine. How can I help you?"),
    (
        ("What is Python?", "What's Python?", "Tell me about Python.", "Explain Python."),
        "Python is an interpreted, interactive, object-oriented programming language. It has modules, classes, "
        "exceptions, "
        "very high level dynamic data types and dynamic typing, and it comes with a large standard library.",
    ),
    (
        ("Write hello world in Python.", "Hello world in Python", "Print hello world.", "Write a hello world program."),
        '```python\nprint("Hello, world!")\n```',
    ),
    (
        (
            "How do I read a file in Python?",
            "How can I read a file line by line?",
            "Read a file in Python.",
            "How to open a file?",
        ),
        "Open it in a `with` statement and iterate over it:\n\n```python\n"
        'with open("file.txt", encoding="utf-8") as f:\n'
        "    for line in f:\n        print(line.rstrip())\n```",
    ),
    (
        ("How do I write to a file?", "How can I write a text file in Python?", "Write a file in Python."),
        'Open it with mode "w":\n\n```python\nwith open("file.txt", "w", encoding="utf-8") as f:\n'
        '    f.write("text\\n")\n```',
    ),
    (
        (
            "How do I sort a list?",
            "Sort a list in Python.",
            "How can I sort a list in Python?",
            "How to sort a list by key?",
        ),
        "Use `sorted` for a new list, or `list.sort` to sort in place:\n\n```python\nnumbers = [3, 1, 2]\n"
        "print(sorted(numbers))\nnumbers.sort(key=lambda x: -x)\n```",
    ),
    (
        ("How do I reverse a string?", "Reverse a string in Python.", "Write a function that reverses a string."),
        "```python\ndef reverse(text):\n    return text[::-1]\n```",
    ),
    (
        ("How do I parse JSON?", "Parse JSON in Python.", "How do I load a JSON file?", "How to read JSON?"),
        'Use the `json` module:\n\n```python\nimport json\n\nwith open("data.json", encoding="utf-8") as f:\n'
        "    data = json.load(f)\n```",
    ),
    (
        ("Write a fibonacci function.", "Write a function that computes Fibonacci numbers.", "Fibonacci in Python"),
        "```python\ndef fib(n):\n    a, b = 0, 1\n    for _ in range(n):\n        a, b = b, a + b\n    return a\n```",
    ),
    (
        ("Write a factorial function.", "Compute the factorial in Python.", "Factorial in Python"),
        "```python\ndef factorial(n):\n    result = 1\n    for i in range(2, n + 1):\n        result *= i\n"
        "    return result\n```",
    ),
    (
        ("What is a list comprehension?", "Explain list comprehensions.", "List comprehension in Python"),
        "A list comprehension builds a list from an iterable in one expression:\n\n```python\n"
        "squares = [x * x for x in range(10)]\n```",
    ),
    (
        ("What is a generator?", "Explain generators.", "What does yield do?"),
        "A generator is a function that contains `yield`. Calling it returns an iterator; each `yield` hands "
        "out one value "
        "and pauses the function until the next value is asked for.",
    ),
    (
        ("What is a decorator?", "Explain decorators.", "What are decorators in Python?"),
        "A decorator is a function that takes a function and returns another one, usually a wrapper:\n\n```python\n"
        "def log(func):\n    def wrapper(*args, **kwargs):\n        print(func.__name__)\n"
        "        return func(*args, **kwargs)\n"
        "    return wrapper\n```",
    ),
    (
        ("What is a dictionary?", "Explain dictionaries.", "What is a dict in Python?"),
        "A dictionary maps keys to values. Keys must be hashable:\n\n```python\nages = {'Ann': 30, 'Bob': 25}\n"
        "ages['Eve'] = 41\n```",
    ),
    (
        ("How do I handle exceptions?", "How do I catch an exception?", "Explain try and except."),
        "Use `try` and `except`:\n\n```python\ntry:\n    value = int(text)\nexcept ValueError as error:\n"
        "    print(error)\n```",
    ),
    (
        ("How do I get the length of a list?", "Length of a list in Python", "How long is a list?"),
        "Use `len`:\n\n```python\nprint(len([1, 2, 3]))\n```",
    ),
    (
        ("How do I list the files of a directory?", "List files in a folder.", "How can I list a directory?"),
        "Use `os.listdir`, or `pathlib`:\n\n```python\nfrom pathlib import Path\n\n"
        "for path in Path('.').iterdir():\n    print(path)\n```",
    ),
)
