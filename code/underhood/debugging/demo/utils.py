def sum(mylist: list[int]) -> int:
    result = 0
    for item in mylist:
        result += item
    return result
